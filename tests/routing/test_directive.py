"""The grammar of one entry."""

from __future__ import annotations

from decimal import Decimal

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.routing.directive import Entry, parse, parse_sort, parse_usd, shown

KNOWN = {"gpt-4o", "qwen2.5-coder", "qwen2.5-coder:7b", "a;sort:price", "odd:floor", "auto-ish"}

ENTRIES: dict[str, tuple[str, str, str, str | None, str | None]] = {
    "an id": ("gpt-4o", "name", "gpt-4o", None, None),
    "an id with a colon": ("qwen2.5-coder:7b", "name", "qwen2.5-coder:7b", None, None),
    "an unknown id with a colon": ("llama3:70b", "name", "llama3:70b", None, None),
    "auto": ("auto", "auto", "auto", None, None),
    "a tag": ("industry:legal", "industry", "legal", None, None),
    "a strategy": ("strategy:cost", "strategy", "cost", None, None),
    "a profile": ("profile:support", "profile", "support", None, None),
    "a provider's own name": ("openai/gpt-4o", "name", "openai/gpt-4o", None, None),
    "an unknown strategy is not judged here": ("strategy:best", "strategy", "best", None, None),
    "a tag without a name": ("industry:", "industry", "", None, None),
    "sort by semicolon": ("gpt-4o;sort:price", "name", "gpt-4o", "price", None),
    "sort by comma": ("auto,sort:latency", "auto", "auto", "latency", None),
    "sort by space": ("strategy:quality sort:throughput", "strategy", "quality", "throughput", None),
    "a ceiling": ("industry:legal;max_price:0.25", "industry", "legal", None, "0.25"),
    "both, any gap": ("auto ; sort:quality ,  max_price:1e-3", "auto", "auto", "quality", "0.001"),
    "the later of two sorts": ("auto;sort:price;sort:quality", "auto", "auto", "quality", None),
    "nothing behind the gap": ("gpt-4o; ", "name", "gpt-4o", None, None),
    "spaces around": ("  gpt-4o\t", "name", "gpt-4o", None, None),
    "floor": ("gpt-4o:floor", "name", "gpt-4o", "price", None),
    "nitro on auto": ("auto:nitro", "auto", "auto", "throughput", None),
    "floor on a tag": ("industry:legal:floor", "industry", "legal", "price", None),
    "floor on an id with a colon": ("qwen2.5-coder:7b:floor", "name", "qwen2.5-coder:7b", "price", None),
    "floor and a ceiling": ("gpt-4o:floor;max_price:2", "name", "gpt-4o", "price", "2"),
    "a sort wins over floor": ("gpt-4o:floor;sort:quality", "name", "gpt-4o", "quality", None),
    "the whole is known": ("a;sort:price", "name", "a;sort:price", None, None),
    "a known id that ends like a suffix": ("odd:floor", "name", "odd:floor", None, None),
    "a known id that ends like a suffix, with one": ("odd:floor:nitro", "name", "odd:floor", "throughput", None),
    "a profile called floor": ("profile:floor", "profile", "floor", None, None),
    "a profile called floor, by price": ("profile:floor:floor", "profile", "floor", "price", None),
    "a tail that is not in the list": ("gpt-4o;fast", "name", "gpt-4o;fast", None, None),
    "one good tail and one bad": ("gpt-4o;sort:price;fast", "name", "gpt-4o;sort:price;fast", None, None),
    "an unknown variant": ("gpt-4o:free", "name", "gpt-4o:free", None, None),
    "a variant alone": (":floor", "name", ":floor", None, None),
    "nothing but a suffix": (";sort:price", "name", "", "price", None),
}


@each(("text", "kind", "name", "sort", "usd"), ENTRIES.values(), ids=ENTRIES)
def test_an_entry_comes_apart(text: str, kind: str, name: str, sort: str | None, usd: str | None) -> None:
    assert parse(text, KNOWN.__contains__) == Entry(text, kind, name, sort, Decimal(usd) if usd else None)


@each(
    ("text", "said"),
    [
        ("gpt-4o;sort:cheap", "price, latency, throughput, quality, not 'cheap'"),
        ("gpt-4o;sort:", "not ''"),
        ("gpt-4o;max_price:", "not ''"),
        ("auto;max_price:-1", "not '-1'"),
        ("auto;max_price:NaN", "not 'NaN'"),
        ("auto;max_price:inf", "not 'inf'"),
        ("auto;max_price:1000001", "not '1000001'"),
        ("auto;max_price:1$", "not '1$'"),
    ],
)
def test_a_suffix_with_a_bad_value_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(text, KNOWN.__contains__, param="models[2]")
    assert said in refused.value.message
    assert refused.value.param == "models[2]"


@each(("value", "usd"), [(0, "0"), (1, "1"), (0.1, "0.1"), (1e-07, "1E-7"), ("0.25", "0.25"), (-0.0, "-0.0")])
def test_a_price_is_the_number_that_was_written(value: object, usd: str) -> None:
    assert parse_usd(value, "max_price") == Decimal(usd)


@each("value", [True, None, [], {}, -1, "-0.1", "", "one", float("nan"), float("inf"), 10**7, "9" * 99])
def test_what_is_no_price_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="max_price is a number of USD"):
        parse_usd(value, "max_price")


@each("value", ["", "PRICE", "cost", None, 1, ["price"], {}])
def test_what_is_no_sort_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^sort is one of"):
        parse_sort(value, "sort")
    with pytest.raises(InvalidRequest, match=r"^model: sort is one of"):  # of a suffix
        parse_sort(value, "model")


def test_a_client_s_value_is_shown_escaped_and_short() -> None:
    assert shown("\ud800\n") == "'\\ud800\\n'"
    assert len(shown("x" * 10_000)) == 60


@given(st.text(st.characters(exclude_categories=()), max_size=80))
def test_any_text_is_an_entry_or_a_refusal(text: str) -> None:
    try:
        entry = parse(text, KNOWN.__contains__)
    except InvalidRequest:
        return
    assert entry.text == text


@given(st.sampled_from(sorted(KNOWN)))
def test_a_known_id_means_itself_whatever_stands_in_it(id: str) -> None:
    assert parse(id, KNOWN.__contains__) == Entry(id, "name", id)
