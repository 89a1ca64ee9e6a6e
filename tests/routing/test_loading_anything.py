"""Whatever the file holds, it loads or is refused; and what loads can be used."""

from __future__ import annotations

import json
from contextlib import suppress
from random import Random
from typing import Any

import cattrs
import fuzz
from attrs import AttrsInstance, fields
from each import each
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import EVERY, KEYS, PROJECT, asks, half, no_file

from proxy.catalog import PriceBook
from proxy.dialects import UPSTREAMS
from proxy.errors import GatewayError
from proxy.routing.loading import load
from proxy.routing.models import Models
from proxy.routing.plan import resolve
from proxy.routing.problems import TableRejected
from proxy.routing.sections import (
    CONVERTER,
    QUICK,
    File,
    ModelSection,
    ProjectSection,
    ProviderSection,
    parse_toml,
)
from proxy.routing.table import Industry, Profile, Retry, Rule, Server, Timeouts
from proxy.routing.world import World

fewer = settings(max_examples=fuzz.examples(80))
SHIPPED = (PROJECT / "routes.toml").read_bytes()
WORDS = sorted(
    {
        word
        for line in SHIPPED.decode().splitlines()
        if not line.startswith("#")
        for word in line.replace('"', " ").split()
    }
)
PRINTED = st.characters(codec="utf-8")
scalars = st.one_of(
    st.booleans(),
    st.integers(-5, 200),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["m", "p", "auto", "strategy:cost", "5s", "off", "32MiB", "none", "${X}", "file:/x", "http://p.test", "", "."]
    ),
    st.sampled_from(WORDS),
    st.text(PRINTED, max_size=12),
)
KEYS_OF_TABLES = (
    *("provider", "candidates", "models", "use", "name", "price", "api_key", "dialect", "base_url", "input", "output"),
    *("weight", "model", "sort", "listen", "code", "chat"),
)
keys = st.one_of(st.sampled_from(KEYS_OF_TABLES), st.sampled_from(WORDS), st.text(PRINTED, max_size=8))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def toml(value: Any) -> str:
    match value:
        case dict():
            return "{ " + ", ".join(f"{toml(str(key))} = {toml(it)}" for key, it in value.items()) + " }"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value).replace("\x7f", "\\u007f")
    return str(value) if not isinstance(value, float) else f"{value:f}"


def written(document: dict[str, Any]) -> bytes:
    return "\n".join(f"{toml(key)} = {toml(value)}" for key, value in document.items()).encode()


def read(converter: cattrs.Converter, document: dict[str, Any]) -> File | None:
    """None where it is refused, for whatever reason."""
    try:
        return converter.structure(document, File)
    except Exception:
        return None


def survives(raw: bytes) -> None:
    """Loads, or is refused; and what loads can be used."""
    try:
        table = load(raw, env=KEYS | EVERY, read_file=no_file, dialects=UPSTREAMS.keys())
    except TableRejected:
        return
    world = World(table, Models.build(table, PriceBook()))
    for name in ("auto", "strategy:cost", *table.aliases, *table.profiles, *list(table.models)[:5]):
        try:
            assert resolve(asks(name, turns=("hi",)), world, half, 0.0).as_json()
        except GatewayError:
            continue


def section(kind: type[AttrsInstance]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from([attribute.name for attribute in fields(kind)])
    return st.dictionaries(st.one_of(names, names, names, keys), values, max_size=5)


NAMED = {
    "providers": ProviderSection,
    "models": ModelSection,
    "industries": Industry,
    "profiles": Profile,
    "projects": ProjectSection,
}
documents = st.fixed_dictionaries(
    {},
    optional={
        **{name: section(kind) for name, kind in (("server", Server), ("timeouts", Timeouts), ("retry", Retry))},
        **{name: st.dictionaries(keys, section(kind), max_size=2) for name, kind in NAMED.items()},
        "rules": st.lists(section(Rule), max_size=2),
        "aliases": st.dictionaries(keys, values, max_size=3),
        "auto": st.dictionaries(keys, values, max_size=3),
    },
)


@fewer
@given(documents | st.dictionaries(keys, values, max_size=4))
def test_any_document_loads_or_is_refused(document: dict[str, Any]) -> None:
    survives(written(document))


@fewer
@given(documents.map(written) | st.just(SHIPPED))
def test_the_quick_reader_takes_what_the_one_with_places_takes(raw: bytes) -> None:
    with suppress(ValueError, ArithmeticError):  # no TOML
        document = parse_toml(raw)
        assert read(QUICK, document) == read(CONVERTER, document)


@fewer
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_load_or_are_refused(raw: bytes) -> None:
    survives(raw)


@each("seed", range(40))
def test_the_shipped_file_with_something_wrong_loads_or_is_refused(seed: int) -> None:
    """A line is gone, doubled, swapped with another, or has another's value: what happens to files in an editor."""
    dice = Random(seed)
    lines = [line for line in SHIPPED.decode().split("\n") if line and not line.startswith("#")]
    for _ in range(dice.randrange(1, 4)):
        one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
        match dice.randrange(5):
            case 0:
                del lines[one]
            case 1:
                lines.insert(one, lines[other])
            case 2:
                lines[one], lines[other] = lines[other], lines[one]
            case 3:
                lines[one] = lines[one].partition("=")[0] + "=" + lines[other].partition("=")[2]
            case _:
                cut = dice.randrange(len(lines[one]) + 1)
                lines[one] = lines[one][:cut]
    survives("\n".join(lines).encode())
