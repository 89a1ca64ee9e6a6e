"""What a request says of its routing: body, headers, and which of them wins."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from each import each

from proxy.errors import GatewayError, InvalidRequest, MissingModel
from proxy.ir import Shape
from proxy.routing.facts import (
    MOST_ENTRIES,
    NO_PREFERENCES,
    Ceiling,
    Preferences,
    estimate_tokens,
    read_ceiling,
    read_industry,
    read_partition,
    read_preferences,
    read_sort,
    read_stream,
    read_wanted,
)

PREFIX = "x-nyuro-"
Body = dict[str, Any]


def wanted(body: Body, headers: Mapping[str, str] | None = None, default: str | None = None) -> tuple[str, ...]:
    return read_wanted(
        body,
        {name if name.startswith("anthropic") else f"{PREFIX}{name}": value for name, value in (headers or {}).items()},
        PREFIX,
        default,
    )


WANTED: dict[str, tuple[Body, dict[str, str], tuple[str, ...]]] = {
    "model": ({"model": "gpt-4o"}, {}, ("gpt-4o",)),
    "models twice": ({"models": ["a", "b", "a"]}, {}, ("a", "b")),
    "models alone": ({"models": ["a", "strategy:cost"]}, {}, ("a", "strategy:cost")),
    "model goes first": ({"model": "c", "models": ["a", "b"]}, {}, ("c", "a", "b")),
    "model stands among models": ({"model": "b", "models": ["a", "b", "a"]}, {}, ("b", "a")),
    "null models": ({"model": "a", "models": None}, {}, ("a",)),
    "no models": ({"model": "a", "models": []}, {}, ("a",)),
    "fallbacks, as Messages have them": ({"model": "a", "fallbacks": [{"model": "b"}]}, {}, ("a", "b")),
    "fallbacks behind models": ({"model": "a", "models": ["b"], "fallbacks": [{"model": "c"}]}, {}, ("a", "b", "c")),
    "fallbacks behind the header's models": (
        {"model": "a", "fallbacks": [{"model": "c"}]},
        {"models": "b"},
        ("a", "b", "c"),
    ),
    "fallbacks that Anthropic tries by itself": (
        {"model": "a", "fallbacks": [{"model": "b", "max_tokens": 9}]},
        {"anthropic-beta": "x,server-side-fallback-2026-07-01"},
        ("a",),
    ),
    "the fallbacks that Anthropic has by itself": ({"model": "a", "fallbacks": "default"}, {}, ("a",)),
    "null fallbacks": ({"model": "a", "fallbacks": None}, {}, ("a",)),
    "route says what is done anyway": ({"model": "a", "route": "fallback"}, {}, ("a",)),
    "a null route": ({"model": "a", "route": None}, {}, ("a",)),
    "models by header": (
        {"model": "x"},
        {"models": "a;sort:price, b:7b ,,industry:legal"},
        ("x", "a;sort:price", "b:7b", "industry:legal"),
    ),
    "header over body": ({"models": ["a"]}, {"models": "b,c"}, ("b", "c")),
    "an empty header says nothing": ({"models": ["a"]}, {"models": ""}, ("a",)),
    "a profile by header stands in for model": ({"model": "x"}, {"profile": "support"}, ("profile:support",)),
    "a profile by header as it stands in model": ({}, {"profile": "profile:support"}, ("profile:support",)),
    "a profile by header before models": ({"models": ["a"]}, {"profile": "support"}, ("profile:support", "a")),
}


@each(("body", "headers", "entries"), WANTED.values(), ids=WANTED)
def test_the_entries_of_a_request(body: Body, headers: dict[str, str], entries: tuple[str, ...]) -> None:
    assert wanted(body, headers) == entries


def test_a_surface_may_have_a_default_model() -> None:
    assert wanted({}, default="meta-llm") == ("meta-llm",)
    assert wanted({"model": "a"}, default="meta-llm") == ("a",)


@each("body", [{}, {"model": None}, {"model": ""}, {"models": []}, {"model": None, "models": []}])
def test_a_request_without_a_model_is_told_so(body: Body) -> None:
    with pytest.raises(MissingModel) as refused:
        wanted(body)
    assert refused.value.param == "model"


BAD: dict[str, tuple[Body, str]] = {
    "a number": ({"model": 4}, "model"),
    "a list": ({"model": ["a"]}, "model"),
    "only spaces": ({"model": "  "}, "model"),
    "too long": ({"model": "x" * 257}, "model"),
    "fallbacks as a string": ({"model": "a", "fallbacks": "b"}, "fallbacks"),
    "fallbacks of strings": ({"model": "a", "fallbacks": ["b"]}, "fallbacks[0]"),
    "a fallback without a model": ({"model": "a", "fallbacks": [{"model": "b"}, {}]}, "fallbacks[1].model"),
    "a fallback that changes the request": (
        {"model": "a", "fallbacks": [{"model": "b", "max_tokens": 9}]},
        "fallbacks[0]",
    ),
    "another route": ({"model": "a", "route": "sort"}, "route"),
    "models as a string": ({"model": "a", "models": "b"}, "models"),
    "models as an object": ({"models": {"a": 1}}, "models"),
    "a null among models": ({"models": ["a", None]}, "models[1]"),
    "an empty one among models": ({"models": ["a", "b", ""]}, "models[2]"),
    "a number among models": ({"models": [7]}, "models[0]"),
    "a list among models": ({"models": [["a"]]}, "models[0]"),
    "too long among models": ({"models": ["a", "x" * 257]}, "models[1]"),
}


@each(("body", "param"), BAD.values(), ids=BAD)
def test_what_is_no_name_is_refused_with_its_place(body: Body, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        wanted(body)
    assert refused.value.param == param


def test_of_a_thousand_models_the_first_are_looked_at() -> None:
    entries = wanted({"models": [f"m{n}" for n in range(1_000)]})
    assert entries == tuple(f"m{n}" for n in range(MOST_ENTRIES))
    assert len(wanted({}, {"models": ",".join(f"m{n}" for n in range(1_000))})) == MOST_ENTRIES


# -- sort, ceiling -----------------------------------------------------------------------------------------------


def test_a_sort_by_header_wins_over_the_body_s_and_that_over_openrouter_s() -> None:
    body = {"sort": "price", "provider": {"sort": "latency"}}
    assert read_sort(body, {f"{PREFIX}sort": "quality"}, PREFIX) == "quality"
    assert read_sort(body, {}, PREFIX) == "price"
    assert read_sort({"provider": {"sort": "latency"}}, {}, PREFIX) == "latency"
    assert read_sort({"provider": {"sort": {"by": "throughput", "partition": "none"}}}, {}, PREFIX) == "throughput"
    assert read_sort({"provider": {"sort": None}}, {}, PREFIX) is None
    assert read_sort({}, {}, PREFIX) is None


def test_a_partition_holds_for_the_sort_it_stands_beside() -> None:
    body = {"provider": {"sort": {"by": "price", "partition": "model"}}}
    assert read_partition(body, {}, PREFIX)
    assert not read_partition(body, {f"{PREFIX}sort": "quality"}, PREFIX)
    assert not read_partition({"sort": "price", **body}, {}, PREFIX)
    for other in ("price", {"by": "price"}, {"by": "price", "partition": "none"}, None):
        assert not read_partition({"provider": {"sort": other}}, {}, PREFIX)


SORTS: dict[str, tuple[Body, dict[str, str], str]] = {
    "header": ({}, {f"{PREFIX}sort": "best"}, f"{PREFIX}sort"),
    "body": ({"sort": 1}, {}, "sort"),
    "openrouter's": ({"provider": {"sort": "cheap"}}, {}, "provider.sort"),
    "a strange key in openrouter's object": ({"provider": {"sort": {"by": "price", "max": 1}}}, {}, "provider.sort"),
    "a strange partition": ({"provider": {"sort": {"by": "price", "partition": 1}}}, {}, "provider.sort.partition"),
    "openrouter's object": ({"provider": {"sort": {"by": "cheap"}}}, {}, "provider.sort"),
}


@each(("body", "headers", "param"), SORTS.values(), ids=SORTS)
def test_a_bad_sort_is_refused_with_its_place(body: Body, headers: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_sort(body, headers, PREFIX)
    assert refused.value.param == param


CEILINGS: dict[str, tuple[Body, dict[str, str], Ceiling | None]] = {
    "none": ({}, {}, None),
    "null": ({"max_price": None, "provider": {"max_price": None}}, {}, None),
    "a number": ({"max_price": 0.1}, {}, Ceiling(Decimal("0.1"))),
    "a string": ({"max_price": "0.10"}, {}, Ceiling(Decimal("0.10"))),
    "nothing at all": ({"max_price": 0}, {}, Ceiling(Decimal(0))),
    "per million": (
        {"max_price": {"prompt": 1, "completion": "2.5"}},
        {},
        Ceiling(prompt=Decimal(1), completion=Decimal("2.5")),
    ),
    "half of it": ({"max_price": {"completion": 3}}, {}, Ceiling(completion=Decimal(3))),
    "openrouter's": ({"provider": {"max_price": {"prompt": 1}}}, {}, Ceiling(prompt=Decimal(1))),
    "the body's over openrouter's": ({"max_price": 2, "provider": {"max_price": 1}}, {}, Ceiling(Decimal(2))),
    "the header's over the body's": ({"max_price": 2}, {f"{PREFIX}max-price": "3"}, Ceiling(Decimal(3))),
}


@each(("body", "headers", "ceiling"), CEILINGS.values(), ids=CEILINGS)
def test_a_ceiling(body: Body, headers: dict[str, str], ceiling: Ceiling | None) -> None:
    assert read_ceiling(body, headers, PREFIX) == ceiling


BAD_CEILINGS: dict[str, tuple[Body, dict[str, str], str]] = {
    "true": ({"max_price": True}, {}, "max_price"),
    "a list": ({"max_price": [1]}, {}, "max_price"),
    "a word": ({"max_price": "cheap"}, {}, "max_price"),
    "negative": ({"max_price": -0.1}, {}, "max_price"),
    "a part that is negative": ({"max_price": {"prompt": -1}}, {}, "max_price.prompt"),
    "a part that is no number": ({"max_price": {"completion": {}}}, {}, "max_price.completion"),
    "a part that is not counted here": ({"max_price": {"image": 1}}, {}, "max_price"),
    "openrouter's": ({"provider": {"max_price": {"prompt": "x"}}}, {}, "provider.max_price.prompt"),
    "header": ({}, {f"{PREFIX}max-price": "-1"}, f"{PREFIX}max-price"),
}


@each(("body", "headers", "param"), BAD_CEILINGS.values(), ids=BAD_CEILINGS)
def test_a_bad_ceiling_is_refused_with_its_place(body: Body, headers: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_ceiling(body, headers, PREFIX)
    assert refused.value.param == param


# -- OpenRouter's provider object --------------------------------------------------------------------------------


def test_preferences_are_read_whole() -> None:
    given = {
        "order": ["a", "b"],
        "only": ["a"],
        "ignore": ["c"],
        "allow_fallbacks": False,
        "require_parameters": True,
        "sort": "price",
        "max_price": {"prompt": 1},
    }
    assert read_preferences({"provider": given}) == Preferences(("a", "b"), ("a",), ("c",), False, True)


@each("body", [{}, {"provider": None}, {"provider": {}}, {"provider": {"order": None, "allow_fallbacks": None}}])
def test_no_preferences(body: Body) -> None:
    assert read_preferences(body) == NO_PREFERENCES


BAD_PREFERENCES: dict[str, tuple[Any, str]] = {
    "a string": ("openai", "provider is an object"),
    "a list": (["openai"], "provider is an object"),
    "an unknown key": ({"orders": ["a"]}, "provider has no key 'orders'; known are order, only"),
    "a key of another house": ({"zdr": True}, "provider.zdr is OpenRouter's alone"),
    "data_collection": ({"data_collection": "deny"}, "cannot be kept here"),
    "quantizations": ({"quantizations": ["fp8"]}, "cannot be kept here"),
    "order as a string": ({"order": "openai"}, "provider.order is a list of provider names"),
    "a number in only": ({"only": [1]}, "provider.only is a list"),
    "ignore as an object": ({"ignore": {}}, "provider.ignore is a list"),
    "allow_fallbacks as a string": ({"allow_fallbacks": "false"}, "provider.allow_fallbacks is true or false"),
    "require_parameters as a number": ({"require_parameters": 1}, "provider.require_parameters is true or false"),
}


@each(("value", "said"), BAD_PREFERENCES.values(), ids=BAD_PREFERENCES)
def test_bad_preferences_are_refused(value: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_preferences({"provider": value})
    assert said in refused.value.message
    assert (refused.value.param or "").startswith("provider")


# -- the rest ----------------------------------------------------------------------------------------------------


@each(
    ("body", "stream"), [({}, False), ({"stream": None}, False), ({"stream": True}, True), ({"stream": False}, False)]
)
def test_stream_is_a_boolean(body: Body, stream: bool) -> None:
    assert read_stream(body) is stream


@each("value", [1, 0, "true", "", [], {}])
def test_what_only_looks_like_a_boolean_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_stream({"stream": value})
    assert refused.value.param == "stream"


@each(
    ("metadata", "industry"),
    [
        ({"industry": "legal"}, "legal"),
        ({"industry": 5}, None),
        ({}, None),
        (None, None),
        ("legal", None),
        ({"industry": "x" * 99}, "x" * 64),
    ],
)
def test_an_industry_beside_the_model_is_a_fact(metadata: Any, industry: str | None) -> None:
    assert read_industry({"metadata": metadata}) == industry


def test_tokens_are_estimated_by_characters_bytes_and_media() -> None:
    assert estimate_tokens(Shape(frozenset(), 0), 0) == 0
    assert estimate_tokens(Shape(frozenset(), 9), 0) == 3  # rounded up
    assert estimate_tokens(Shape(frozenset(), 100), 200) == 85  # ideographs: nearly one each
    assert estimate_tokens(Shape(frozenset(), 4, media=2), 0) == 1601


def test_refusals_are_errors_of_the_client() -> None:
    for body in ({"model": 4}, {}):
        with pytest.raises(GatewayError) as refused:
            wanted(body)
        assert refused.value.source == "client"


def test_beyond_the_first_the_types_of_models_are_checked_all_the_same() -> None:
    with pytest.raises(InvalidRequest) as refused:
        wanted({"models": [*(f"m{n}" for n in range(100)), 7]})
    assert refused.value.param == "models[100]"
    assert wanted({"models": [*["a"] * 100, "b"]}) == ("a", "b")


@pytest.mark.parametrize(("value", "said"), [(None, "null"), (True, "true"), ("x", "'x'")])
def test_a_message_speaks_json(value: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        wanted({"model": "a", "models": [value, 1]}) if value != "x" else read_stream({"stream": "x"})
    assert said in refused.value.message
