"""The sections of routes.toml as a person writes them, and the converter that reads them strictly.

Strict: no unknown key, no number where a string belongs, no string where a number belongs. `explain` turns what cattrs
found into (path, message) pairs, all at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, get_args, get_origin

import attrs
import cattrs
from attrs import field
from cattrs.cols import is_mapping

from proxy.record import frozen
from proxy.routing import table
from proxy.routing.directive import shown
from proxy.routing.table import Duration, ModelEntry, Share, Size, TimeoutOverrides

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|KB|MB|GB)")
MOST_SECONDS = 366 * 86_400
MOST_NUMBER = 1_000_000_000  # USD, or tokens: beyond it is a slip of the keyboard
MOST_WEIGHT = 1_000_000
BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@frozen
class ProviderSection:
    dialect: str | None = None
    dialects: tuple[str, ...] = ()
    base_url: str = ""
    api_key: str | None = field(default=None, repr=False)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ("chat",)
    local: bool = False
    enabled: bool = True
    discover: Duration | None = None
    probe: Duration | None = None
    probe_path: str | None = None
    connections: int = 256
    queue: int = 1000
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    proxy: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    timeouts: TimeoutOverrides | None = None


@frozen
class ModelSection:
    provider: str
    native: str | None = None
    context: int | None = None
    max_output: int | None = None
    price: table.PriceEntry | None = None
    capabilities: tuple[str, ...] | None = None
    quality: int | None = None
    reasoning: int | None = None
    timeouts: TimeoutOverrides | None = None
    limits: table.Limits | None = None


@frozen
class ProjectSection:
    parent: str | None = None
    disabled: tuple[str, ...] = ()
    providers: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    local_only: bool = False
    profile: str | None = None
    max_price: Decimal | None = None
    timeouts: TimeoutOverrides | None = None
    headers: Mapping[str, str] = field(factory=dict)
    budget: table.Budget | None = None
    limits: table.Limits | None = None


@frozen
class Entries:
    """One name or a list of them, as an alias may give."""

    entries: tuple[str, ...]


@frozen
class File:
    server: table.Server = field(factory=table.Server)
    timeouts: table.Timeouts = field(factory=table.Timeouts)
    retry: table.Retry = field(factory=table.Retry)
    health: table.HealthLimits = field(factory=table.HealthLimits)
    fetch: table.Fetch = field(factory=table.Fetch)
    routing: table.Routing = field(factory=table.Routing)
    providers: Mapping[str, ProviderSection] = field(factory=dict)
    models: Mapping[str, ModelSection] = field(factory=dict)
    aliases: Mapping[str, Entries] = field(factory=dict)
    auto: Mapping[str, Any] = field(factory=dict)
    industries: Mapping[str, table.Industry] = field(factory=dict)
    profiles: Mapping[str, table.Profile] = field(factory=dict)
    projects: Mapping[str, ProjectSection] = field(factory=dict)
    rules: tuple[table.Rule, ...] = ()


def parse_toml(raw: bytes) -> dict[str, Any]:
    """Numbers with a point as Decimal: prices are exact. A byte-order mark, which some editors write, is skipped."""
    return tomllib.loads(raw.decode("utf-8-sig"), parse_float=Decimal)


def model_entry(id: str, section: ModelSection) -> ModelEntry:
    capabilities = None if section.capabilities is None else frozenset(section.capabilities)
    return ModelEntry(
        id=id,
        provider=section.provider,
        native=section.native or id,
        context=section.context,
        max_output=section.max_output,
        price=section.price,
        capabilities=capabilities,
        quality=section.quality,
        reasoning=section.reasoning,
        timeouts=section.timeouts,
        limits=section.limits,
    )


# -- strict readers ----------------------------------------------------------------------------------------------

TOML_TYPES = {
    str: "a string",
    bool: "a boolean",
    int: "a whole number",
    Decimal: "a number",
    list: "a list",
    dict: "a table",
    datetime: "a date",
    date: "a date",
    time: "a time of day",
}


def toml_type(value: Any) -> str:
    """For messages: the value itself may be a key that stands in the wrong place."""
    return TOML_TYPES.get(type(value), type(value).__name__)


def _exactly(kind: type, word: str) -> Callable[[Any, Any], Any]:
    def read(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{word} is needed, not {toml_type(value)}")
        return value

    return read


def _decimal(value: Any, _: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"a number is needed, not {toml_type(value)}")
    number = Decimal(value)
    if not number.is_finite() or not 0 <= number <= MOST_NUMBER:
        raise ValueError(f"a number from 0 to {MOST_NUMBER:,} is needed")
    return number


def _duration(value: Any, _: Any) -> Duration:
    if value == "off":
        return table.OFF
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'a time such as "500ms", "5s", "2m", "1h" or "off" is needed, not {shown(value)}')
    seconds = float(match[1]) * SECONDS[match[2]]
    if seconds > MOST_SECONDS:
        raise ValueError('a year is the most; "off" is for ever')
    return Duration(seconds)


def _size(value: Any, _: Any) -> Size:
    match = SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'a size such as "64KiB", "32MiB" or "2GiB" is needed, not {shown(value)}')
    return Size(int(match[1]) * BYTES[match[2]])


def _share(value: Any, _: Any) -> Share:
    number = _decimal(value, None)
    if number > 1:
        raise ValueError("a share from 0 to 1 is needed")
    return Share(float(number))


def _entries(value: Any, _: Any) -> Entries:
    names = [value] if isinstance(value, str) else value
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)):
        raise ValueError("a model name, or a list of them that is not empty, is needed")
    return Entries(tuple(names))


def _profile_candidate(value: Any, _: Any) -> table.ProfileCandidate:
    if isinstance(value, str) and value:
        return table.ProfileCandidate(value)
    if not isinstance(value, dict) or not isinstance(value.get("model"), str):
        raise ValueError('a model name or { model = "…", weight = 80 } is needed')
    if unknown := set(value) - {"model", "weight"}:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}; known are model, weight")
    weight = value.get("weight")
    if weight is not None and (type(weight) is not int or not 0 <= weight <= MOST_WEIGHT):
        raise ValueError(f"weight is a whole number from 0 to {MOST_WEIGHT:,}")
    return table.ProfileCandidate(value["model"], weight)


def _strings(value: Any, _: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError("a list of strings is needed, none of them empty")
    return tuple(value)


def _literal(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise ValueError(f"one of {', '.join(map(repr, get_args(kind)))} is needed, not {shown(value)}")
    return value


def _when_met(make: Callable[[Any], Callable[[Any, Any], Any]]) -> Callable[[Any], Callable[[Any, Any], Any]]:
    """Reads by what `make` makes, once a table has such a section: cattrs writes and compiles a function for each, and
    most tables have few of those there are."""
    made = cache(make)

    def read(value: Any, kind: Any) -> Any:
        return made(kind)(value, kind)

    return lambda kind: read


def _is(kind: Any) -> Callable[[Any], bool]:
    return lambda wanted: bool(wanted is kind)


def _is_literal(wanted: Any) -> bool:
    return get_origin(wanted) is Literal


def _converter(*, places: bool) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=places)
    converter.register_structure_hook_factory(attrs.has, _when_met(converter.gen_structure_attrs_fromdict))
    converter.register_structure_hook_factory(is_mapping, _when_met(converter.gen_structure_mapping))
    # Registered by class: a hook by predicate does not reach the plain types inside attrs classes, which cattrs would
    # convert with str() and int().
    converter.register_structure_hook(str, _exactly(str, "a string"))
    converter.register_structure_hook(int, _exactly(int, "a whole number"))
    converter.register_structure_hook(bool, _exactly(bool, "true or false"))
    readers: dict[Any, Callable[[Any, Any], Any]] = {
        Decimal: _decimal,
        Duration: _duration,
        Size: _size,
        Share: _share,
        Entries: _entries,
        table.ProfileCandidate: _profile_candidate,
    }
    for kind, reader in readers.items():
        converter.register_structure_hook_func(_is(kind), reader)
    converter.register_structure_hook_func(lambda t: t == tuple[str, ...], _strings)
    converter.register_structure_hook_func(_is_literal, _literal)
    return converter


CONVERTER = _converter(places=True)
QUICK = _converter(places=False)  # ends at the first problem: a third of the code, which is written at each start


def structure(document: Mapping[str, Any]) -> File:
    """Raises cattrs' BaseValidationError, which holds every problem and its place."""
    with suppress(Exception):  # whatever it is, the other one meets it as well, and tells it
        return QUICK.structure(document, File)
    return CONVERTER.structure(document, File)


# -- what went wrong, in words -----------------------------------------------------------------------------------


def explain(error: cattrs.BaseValidationError) -> list[tuple[str, str]]:
    """(dotted path, message) of everything that cattrs found."""
    return list(_walk(error, ""))


def _walk(error: BaseException, path: str) -> Iterator[tuple[str, str]]:
    match error:
        case cattrs.ClassValidationError():
            noted, rest = error.group_exceptions()
            for exc, note in noted:
                yield from _walk(exc, _join(path, note.name))
            for other in rest:
                yield from _walk(other, path)
        case cattrs.IterableValidationError():
            noted_items, rest = error.group_exceptions()
            for exc, item in noted_items:
                yield from _walk(
                    exc, f"{path}[{item.index}]" if isinstance(item.index, int) else _join(path, item.index)
                )
            for other in rest:
                yield from _walk(other, path)
        case cattrs.ForbiddenExtraKeysError():
            known = [a.name for a in attrs.fields(error.cl)]
            for name in sorted(error.extra_fields):
                near = get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                yield _join(path, name), f"unknown key; {hint}"
        case KeyError():
            yield path, "is missing"
        case ValueError() | InvalidOperation():
            yield path, str(error)
        case _:
            yield path, "a table is needed here" if isinstance(error, AttributeError | TypeError) else str(error)


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
