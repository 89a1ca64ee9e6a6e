"""docs/routes.md and the comments of routes.toml tell of every key and every figure, with the values of the code."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin

import attrs
import pytest
from each import each
from pages import LIFE, OPERATIONS, ROUTES, ROUTING, flowing, named, rows, section, spans

from proxy import streams
from proxy.routing import directive, draft, facts, health, latency, plan, sections, strategies, table, world
from proxy.routing.classifier import LONG
from proxy.routing.problems import TableRejected
from proxy.routing.table import LABELS, Duration, Share, Size
from proxy.server import admin, attempt, early, overload, probing, relay, watchdog
from proxy.server.ledger import Ledger
from proxy.server.reload import load_table
from proxy.streams import passthrough, translation
from proxy.wire import sse

Class = type[attrs.AttrsInstance]


def preset(function: Any, name: str) -> Any:
    """The default of an argument."""
    return inspect.signature(function).parameters[name].default


# -- figures -----------------------------------------------------------------------------------------------------

QUOTED = {
    f"at most {streams.HELD_EVENTS} of them or {streams.HELD_BYTES >> 10} KiB": LIFE,
    f"Of a plain answer up to {attempt.PLAIN_LIMIT >> 20} MiB": LIFE,
    f"up to {preset(sse.Borders, 'max_held') >> 10} KiB, past which it leaves": LIFE,
    f"a comment every {early.PACE:g} seconds": LIFE,
    f"takes no byte for {watchdog.STUCK_WRITE:g} seconds": LIFE,
    f"after {watchdog.STUCK_WRITE:g} s without progress": OPERATIONS,
    f"every {preset(Ledger, 'flush_ms')} ms": OPERATIONS,
    f"Up to {preset(Ledger, 'max_queue_bytes') >> 20} MiB of rows": OPERATIONS,
    f"`limit` is 100 and {admin.MOST_ROWS:,} at most": OPERATIONS,
    f"for {health.PROBES} requests at a time": OPERATIONS,
    f"At most {probing.AT_ONCE} probes are under way": ROUTING,
    f"each pause is {probing.JITTER * 100:g} % shorter or longer": ROUTING,
    f"nothing within {probing.DEADLINE:g} s": ROUTING,
    f"A second question after {probing.AGAIN:g} s": ROUTING,
    f"A chain holds {draft.MOST} candidates at most": ROUTING,
    f"A last turn of {LONG:,} characters or more": ROUTING,
    f"{latency.PRIOR_MS:g} ms is assumed": ROUTING,
    f"up to {world.EXPECTED_OUTPUT} tokens of output": ROUTING,
    f"{world.ASSUMED_OUTPUT:,} where this is absent too": ROUTING,
    f"within {strategies.BAND * 100:g} % of the fastest": ROUTING,
    f"{facts.TOKENS_PER_MEDIUM} for each picture": ROUTING,
    f"1/{facts.CHARS_PER_TOKEN} of the characters": ROUTING,
}

FIGURES = {
    "rest of an overloaded candidate": f"{health.SHORT:g} s",
    "rest of a key that was refused": f"{health.REFUSED_KEY / 60:g} m",
    "least rest of a key after a 429": f"{health.LEAST_RATE_LIMIT:g} s",
    "attempts at a time while everything rests": f"{health.PROBES}",
    "retries of the same candidate, as a share of what its provider is asked": f"{health.RETRY_SHARE * 100:g} %",
    "such retries at once": f"{health.RETRIES_AT_ONCE:g}",
    "first wait before the same candidate is tried again, at random up to": f"{relay.BACKOFF * 2:g} s",
    "doubled with each try, up to": f"{relay.LONGEST_BACKOFF:g} s",
    "seconds over which `min_rate` is measured": f"{watchdog.SPAN}",
    "share of the memory that the kernel allows, above which new work is refused": f"{overload.SHARE * 100:g} %",
    "time in which an observed latency counts": f"{latency.STALE / 60:g} m",
}


@each("sentence", QUOTED)
def test_figures_in_the_text_are_those_of_the_code(sentence: str) -> None:
    assert sentence in flowing(QUOTED[sentence])


def test_figures_of_health_are_those_of_the_code() -> None:
    assert {row["figure"]: row["value"] for row in rows(section(ROUTING, "### Health"))} == FIGURES


def test_the_steps_of_a_plan_are_those_of_the_code() -> None:
    told = {row["step"]: row["empty afterwards"] for row in rows(section(ROUTING, "## How a plan is made"), "step")}
    order = " -> ".join(told)
    assert order in LIFE
    assert plan.__doc__ is not None
    assert order in plan.__doc__
    assert {step: spans(told[step]) for step in plan.REFUSALS} == {
        step: [kind.code] for step, (kind, _) in plan.REFUSALS.items()
    }


def test_the_edits_of_a_stream_are_those_that_are_counted() -> None:
    sources = "".join(map(inspect.getsource, (passthrough, translation)))
    counted = set(re.findall(r'edits\["(\w+)"\]', sources))
    assert set(named(section(LIFE, "## 5. Out"), "edit")) == counted - {"unreadable_frames", "cut_frames"}


# -- what may stand in `model` -----------------------------------------------------------------------------------


def test_words_of_the_grammar_are_those_of_the_parser() -> None:
    grammar = section(ROUTING, "## What may stand in `model`")
    assert set(named(grammar, "suffix")) == {*(f"sort:{sort}" for sort in directive.SORTS), "max_price:USD"}
    assert {name: sort for sort, name in re.findall(r"\| `sort:(\w+)` \|.*`:(\w+)` is the same", grammar)} == (
        directive.VARIANTS
    )
    assert named(grammar, "strategy") == [f"strategy:{name}" for name in directive.STRATEGIES]
    assert strategies.STRATEGIES.keys() == set(directive.STRATEGIES)
    assert set(spans(section(ROUTING, "### `auto`"))) >= set(LABELS)


def test_members_of_routing_are_those_that_are_read() -> None:
    beside = section(ROUTING, "### Beside `model`")
    members = {spans(row["member"])[0] for row in rows(beside, "member") if row["member"] != "-"}
    assert members == facts.EXTENSIONS | {"metadata.industry"}
    keys = [key for row in rows(beside, "key of `provider`") for key in spans(row["key of `provider`"])]
    assert set(keys) == set(facts.PREFERENCES)


# -- routes.toml -------------------------------------------------------------------------------------------------

# Each table of the page: the class that it tells of, and where the file's own comments do.
TABLES: dict[str, tuple[Class, str]] = {
    "### `[server]`": (table.Server, "[server]"),
    "### `[timeouts]`": (table.Timeouts, "[timeouts]"),
    "### `[retry]`": (table.Retry, "[retry]"),
    "### `[health]`": (table.HealthLimits, "[health]"),
    "### `[fetch]`": (table.Fetch, "[fetch]"),
    "### `[routing]`": (table.Routing, "[routing]"),
    "### `[providers.NAME]`": (sections.ProviderSection, "# Providers"),
    '### `[models."ID"]`': (sections.ModelSection, "# Models"),
    "### `price` of a model": (table.PriceEntry, "# Models"),
    "### `[industries.TAG]`": (table.Industry, "# Industries"),
    "### `[profiles.NAME]`": (table.Profile, "# Profiles"),
    "### `candidates` of a profile": (table.ProfileCandidate, "# Profiles"),
    "### `[projects.NAME]`": (sections.ProjectSection, "# Projects"),
    "### `budget` of a project": (table.Budget, "# Projects"),
    "### `limits` of a project and of a model": (table.Limits, "# Projects"),
    "### `[[rules]]`": (table.Rule, "# Rules"),
    "### `tokens` and `cost` of a rule": (table.Band, "# Rules"),
}
# These have a default in their class, and are refused without a value all the same.
NEEDED = {(sections.ProviderSection, key) for key in ("dialects", "base_url", "api_key")}
WORDS: dict[Any, str] = {
    str: "string",
    int: "whole number",
    bool: "true or false",
    Decimal: "number",
    Duration: "time",
    Size: "size",
    Share: "share",
    tuple[str, ...]: "list of strings",
    Mapping[str, str]: "table of strings",
    tuple[table.ProfileCandidate, ...]: "list",
}
UNITS = {"time": "time", "size": "bytes", "share": "0 to 1"}

each_table = pytest.mark.parametrize("heading", TABLES)


def keys_of(kind: Class) -> dict[str, attrs.Attribute[Any]]:
    return {column.name: column for column in attrs.fields(attrs.resolve_types(kind))}


def word_for(kind: Any) -> str:
    if type(None) in get_args(kind):
        (kind,) = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) is Literal:
        return "string"
    return WORDS.get(kind, "table")


def default_of(kind: Class, column: attrs.Attribute[Any]) -> Any:
    """As the page says it: a TOML value, or one of the page's own words."""
    value: Any = column.default
    if value is attrs.NOTHING or (kind, column.name) in NEEDED:
        return "needed"
    if value is None:
        return "-"
    if hasattr(value, "factory"):
        value = value.factory()
    return list(value) if isinstance(value, tuple) else value


def default_told(row: Mapping[str, str]) -> Any:
    if row["default"] in ("needed", "-"):
        return row["default"]
    value = tomllib.loads(f"it = {spans(row['default'])[0]}")["it"]
    match row["type"]:
        case "time":
            return sections.CONVERTER.structure(value, Duration)
        case "size":
            return sections.CONVERTER.structure(value, Size)
    return value


@each_table
def test_every_key_is_told_with_its_type_and_default_and_no_other(heading: str) -> None:
    kind, _ = TABLES[heading]
    told = {spans(row["key"])[0]: row for row in rows(section(ROUTING, heading))}
    assert told.keys() == keys_of(kind).keys()
    for name, column in keys_of(kind).items():
        row = told[name]
        assert row["type"] == word_for(column.type), name
        assert default_told(row) == default_of(kind, column), name
        assert row["unit"] == UNITS.get(row["type"], row["unit"]), name
        assert row["what it does"].endswith("."), name


def test_every_section_of_the_file_is_told() -> None:
    headings = re.findall(r"^### `\[+(\w+).*`$", ROUTING, re.MULTILINE)
    assert set(headings) == keys_of(sections.File).keys()


@pytest.mark.parametrize("key", sorted(key for _, key in NEEDED))
def test_what_is_needed_is_refused_without_it(key: str) -> None:
    block = {"dialects": '["openai-chat"]', "base_url": '"http://127.0.0.1:1/v1"', "api_key": '"none"'}
    lines = [f"{name} = {value}" for name, value in block.items() if name != key]
    with pytest.raises(TableRejected, match=rf"providers\.p\.{key}: "):
        load_table("\n".join(["[providers.p]", *lines]).encode(), {})


def test_the_classes_of_auto_are_told() -> None:
    told = rows(section(ROUTING, "### `[auto]`"), "key")
    assert [spans(row["key"])[0] for row in told] == [*LABELS, "safe"]
    same = {spans(row["what it does"])[0]: spans(row["key"])[0] for row in told if "is the same" in row["what it does"]}
    assert same == table.SYNONYMS


PARTS = re.split(r"^(?=\[\w+\] #|# \w+ -{10})", ROUTES, flags=re.MULTILINE)


@each_table
def test_the_file_is_the_manual_of_every_key(heading: str) -> None:
    """A key stands in the comments of its section, or is set there, with a comment above or behind it."""
    kind, place = TABLES[heading]
    (part,) = [part for part in PARTS if part.startswith(place)]
    told = " ".join(line for line in part.splitlines() if line.startswith("#"))
    for name in keys_of(kind):
        set_here = re.search(rf"^#.*\n(?:^\w+ = .*\n)*^(?:# )?{name} = |^{name} = .* # ", part, re.MULTILINE)
        assert set_here or re.search(rf"(?<![\w-]){name}\b", told), name


def test_the_file_sets_the_defaults() -> None:
    """So its comments tell of what is there."""
    loaded = load_table(ROUTES.encode(), {})
    assert (loaded.server, loaded.timeouts) == (table.Server(), table.Timeouts())
    assert (loaded.retry, loaded.routing) == (table.Retry(), table.Routing())
    assert not loaded.warnings


@each("place", ["[server]", "[timeouts]", "[retry]", "[routing]"])
def test_the_defaults_that_comments_name_are_those_that_are_set(place: str) -> None:
    (part,) = [part for part in PARTS if part.startswith(place)]
    values = set(re.findall(r"= \[?\"?([\w.:-]+)", "\n".join(re.findall(r"^\w+ = .*$", part, re.MULTILINE))))
    told = {value.rstrip(".:") for value in re.findall(r"[Dd]efault \[?\"?([\w.:-]+)", part)}
    assert told
    assert told <= values
