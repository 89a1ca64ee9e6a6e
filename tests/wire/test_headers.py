from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.headers import (
    answer_headers,
    answer_lines,
    join_capped,
    may_pass,
    printable,
    request_headers,
    retry_after,
)

SHARED = Path(__file__).parents[2].parent / "shared"
NOW = 1_792_000_000.0  # 2026-10-14T17:46:40Z

PRINTABLE = {
    "plain text stays": ("alias -> gpt-4o", "alias -> gpt-4o"),
    "arrows": ("cues → code ← x ⇒ y", "cues -> code <- x => y"),
    "dashes and quotes": ("a – b — ‘c’ “d” …", "a - b - 'c' \"d\" ..."),
    "accents go": ("modèle façade Größe", "modele facade Gro?e"),
    "forms that have an ascii one": ("ﬁle ① Ａ", "file 1 A"),
    "other alphabets": ("模型 модель", "?? ??????"),
    "signs above the first plane": ("ok 😀", "ok ?"),
    "a line end cannot start a header": ("a\r\nSet-Cookie: x", "a  Set-Cookie: x"),
    "unicode's line ends too": ("a\u2028b\x85c", "a b c"),
    "control characters go": ("a\0b\x1b[31mc\x7f", "ab[31mc"),
    "directions that only an eye would see go": ("a\u202eb\u200bc\ufeff", "abc"),
    "lone surrogates": ("a\udcffb", "a?b"),
    "blanks around go": ("  a\t", "a"),
    "nothing": ("", ""),
}


@each(("value", "wanted"), PRINTABLE.values(), ids=PRINTABLE)
def test_values_become_printable_ascii(value: str, wanted: str) -> None:
    assert printable(value) == wanted


@each(
    ("value", "wanted"),
    [
        ("0123456789", "0123456789"),
        ("01234567890", "0123456..."),
        ("one two three", "one two..."),
        ("a bcdefghijkl", "a bcdef..."),
        ("one two    three", "one two..."),
    ],
)
def test_long_values_are_cut_between_words(value: str, wanted: str) -> None:
    assert printable(value, limit=10) == wanted


@given(st.text(), st.integers(3, 40))
def test_any_value_fits_a_header(value: str, limit: int) -> None:
    result = printable(value, limit)
    assert result.isascii()
    assert result.isprintable()
    assert len(result) <= limit
    assert printable(result, limit) == result


@each(
    ("items", "limit", "wanted"),
    [
        ([], 10, ""),
        (["a", "b"], 10, "a,b"),
        (["abc", "def", "gh"], 10, "abc,def,gh"),
        (["abc", "def", "ghi"], 10, "abc,def,+1"),
        (["abc", "def", "ghi", "j"], 10, "abc,def,+2"),
        (["abcd", "efgh", "ijkl"], 10, "abcd,+2"),
        (["abcdefgh", "i", "j"], 9, "+3"),
        (["é→", "b"], 10, "e->,b"),
    ],
)
def test_lists_say_how_many_were_left_off(items: list[str], limit: int, wanted: str) -> None:
    assert join_capped(items, limit) == wanted


@given(st.lists(st.text("abc", min_size=1, max_size=8), max_size=40), st.integers(8, 60))
def test_no_list_passes_its_limit_or_miscounts(items: list[str], limit: int) -> None:
    text = join_capped(items, limit)
    assert len(text) <= limit
    shown, _, more = text.rpartition("+")
    names = [name for name in (shown if more != text else text).split(",") if name]
    assert names == items[: len(names)]
    assert len(names) + (int(more) if more != text else 0) == len(items)


WAITS: dict[str, tuple[dict[str, str], float | None]] = {
    "nothing said": ({}, None),
    "seconds": ({"retry-after": "27"}, 27.0),
    "fractions": ({"retry-after": "0.5"}, 0.5),
    "zero": ({"retry-after": "0"}, 0.0),
    "blanks around": ({"retry-after": " 3 "}, 3.0),
    "milliseconds come first": ({"retry-after": "27", "retry-after-ms": "26500"}, 26.5),
    "azure's milliseconds": ({"x-ms-retry-after-ms": "1500", "retry-after": "9"}, 1.5),
    "milliseconds that are none": ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
    "a date": ({"retry-after": "Wed, 14 Oct 2026 17:47:40 GMT"}, 60.0),
    "a date of another zone": ({"retry-after": "Wed, 14 Oct 2026 19:47:40 +0200"}, 60.0),
    "a date without a zone": ({"retry-after": "Wed, 14 Oct 2026 17:47:40 -0000"}, 60.0),
    "a past date": ({"retry-after": "Wed, 14 Oct 2015 17:47:40 GMT"}, 0.0),
    "a far date": ({"retry-after": "Wed, 14 Oct 2099 17:47:40 GMT"}, 86_400.0),
    "negative": ({"retry-after": "-5"}, 0.0),
    "a day and more": ({"retry-after": "86401"}, 86_400.0),
    "absurdly many": ({"retry-after": "9" * 5_000}, 86_400.0),
    "text": ({"retry-after": "later"}, None),
    "not a number": ({"retry-after": "nan"}, None),
    "infinite": ({"retry-after": "inf"}, None),
    "exponents": ({"retry-after": "1e3"}, None),
    "digits of another script": ({"retry-after": "٣"}, None),
    "underscores": ({"retry-after": "1_0"}, None),
    "empty": ({"retry-after": ""}, None),
    "an impossible date": ({"retry-after": "Wed, 99 Oct 2026 17:47:40 GMT"}, None),
}


@each(("headers", "wanted"), WAITS.values(), ids=WAITS)
@each("limited", [False, True])
def test_waits_are_read(headers: dict[str, str], wanted: float | None, limited: bool) -> None:
    assert retry_after(headers, NOW, limited) == wanted


RESETS: dict[str, tuple[dict[str, str], float | None]] = {
    "openai": ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "26.604s"}, 26.604),
    "minutes": ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
    "hours": ({"x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5),
    "milliseconds": ({"x-ratelimit-reset-requests": "120ms"}, 0.12),
    "microseconds": ({"x-ratelimit-reset-requests": "500µs"}, 0.0005),
    "bare seconds": ({"x-ratelimit-reset-tokens": "12"}, 12.0),
    "anthropic": ({"anthropic-ratelimit-tokens-reset": "2026-10-14T17:47:40Z"}, 60.0),
    "anthropic, with an offset": ({"anthropic-ratelimit-input-tokens-reset": "2026-10-14T18:47:40+01:00"}, 60.0),
    "past": ({"anthropic-ratelimit-tokens-reset": "2020-10-14T17:47:40Z"}, 0.0),
    "days": ({"x-ratelimit-reset-requests": "100h"}, 86_400.0),
    "the one that is used up": (
        {
            "x-ratelimit-remaining-requests": "99",
            "x-ratelimit-reset-requests": "2h",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "7s",
        },
        7.0,
    ),
    "the latest of those used up": (
        {
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-10-14T17:46:50Z",
            "anthropic-ratelimit-output-tokens-remaining": "0",
            "anthropic-ratelimit-output-tokens-reset": "2026-10-14T17:47:00Z",
        },
        20.0,
    ),
    "the earliest where none is": (
        {
            "x-ratelimit-reset-requests": "8.64s",
            "x-ratelimit-remaining-tokens": "652",
            "x-ratelimit-reset-tokens": "5s",
        },
        5.0,
    ),
    "unreadable": ({"x-ratelimit-reset-requests": "soon", "x-ratelimit-reset-tokens": "5x"}, None),
}


@each(("headers", "wanted"), RESETS.values(), ids=RESETS)
def test_resets_count_for_a_429_that_names_no_wait(headers: dict[str, str], wanted: float | None) -> None:
    assert retry_after(headers, NOW, limited=True) == pytest.approx(wanted)
    assert retry_after(headers, NOW) is None
    assert retry_after({**headers, "retry-after": "1"}, NOW, limited=True) == 1.0


@given(
    st.dictionaries(
        st.sampled_from(
            ["retry-after", "retry-after-ms", "x-ratelimit-reset-tokens", "anthropic-ratelimit-tokens-reset"]
        ),
        st.one_of(st.text(), st.from_regex(r"[0-9:.,+ GMTZhms-]*"), st.from_regex(r"\w{3}, \d+ \w+ \d+ [\d:]+ \S+")),
    )
)
def test_no_header_makes_a_wait_beyond_a_day(headers: dict[str, str]) -> None:
    wait = retry_after(headers, NOW, limited=True)
    assert wait is None or 0.0 <= wait <= 86_400.0


CLIENT = [
    ("Host", "gateway:8080"),
    ("Authorization", "Bearer key"),
    ("X-Api-Key", "key"),
    ("Cookie", "a=b"),
    ("User-Agent", "SDK/1.0"),
    ("Accept", "*/*"),
    ("Accept-Encoding", "gzip"),
    ("Content-Type", "application/json"),
    ("Content-Length", "2"),
    ("Transfer-Encoding", "chunked"),
    ("X-Forwarded-For", "10.0.0.1"),
    ("Forwarded", "for=10.0.0.1"),
    ("Via", "1.1 x"),
    ("traceparent", "00-1-2-00"),
    ("X-Stainless-Lang", "python"),
    ("X-Nyuro-Models", "gpt-4o"),
    ("x-claude-code-session-id", "s"),
    ("Anthropic-Version", "2023-06-01"),
    ("anthropic-beta", "context-1m"),
    ("anthropic-beta", "interleaved"),
    ("OpenAI-Beta", "assistants=v2"),
    ("OpenAI-Organization", "org-1"),
    ("OpenAI-Project", "proj_1"),
    ("Idempotency-Key", "k1"),
]
ANTHROPIC = [("anthropic-version", "2023-06-01"), ("anthropic-beta", "context-1m"), ("anthropic-beta", "interleaved")]
BETA = ("openai-beta", "assistants=v2")
ACCOUNT = [("openai-organization", "org-1"), ("openai-project", "proj_1")]
KEY = ("idempotency-key", "k1")

REQUESTS: dict[str, tuple[str, bool, bool, list[tuple[str, str]]]] = {  # dialect, native, byok, what goes on
    "anthropic to its own": ("anthropic", True, False, ANTHROPIC),
    "anthropic with the caller's key": ("anthropic", True, True, [*ANTHROPIC, KEY]),
    "translated to anthropic": ("anthropic", False, False, []),
    "openai to its own": ("openai-chat", True, False, [BETA]),
    "responses to its own": ("openai-responses", True, False, [BETA]),
    "openai with the caller's key": ("openai-chat", True, True, [BETA, *ACCOUNT, KEY]),
    "translated, with the caller's key": ("openai-responses", False, True, ACCOUNT),
    "translated to openai": ("openai-chat", False, False, []),
    "to another": ("gemini", False, True, []),
}


@each(("dialect", "native", "byok", "wanted"), REQUESTS.values(), ids=REQUESTS)
def test_a_provider_gets_what_is_listed(dialect: str, native: bool, byok: bool, wanted: list[tuple[str, str]]) -> None:
    assert request_headers(CLIENT, dialect, native, byok) == wanted


PROVIDER = [
    ("Content-Type", "application/json"),
    ("Content-Encoding", "gzip"),
    ("Content-Length", "2"),
    ("Connection", "keep-alive"),
    ("Transfer-Encoding", "chunked"),
    ("Set-Cookie", "__cf_bm=1"),
    ("Server", "cloudflare"),
    ("Access-Control-Allow-Origin", "*"),
    ("Strict-Transport-Security", "max-age=1"),
    ("WWW-Authenticate", "Bearer"),
    ("Location", "http://10.0.0.1/"),
    ("Retry-After", "27"),
    ("Retry-After-Ms", "26604"),
    ("x-should-retry", "true"),
    ("x-ratelimit-limit-tokens", "10000"),
    ("x-ratelimit-key", "deployment-1"),
    ("anthropic-ratelimit-tokens-reset", "2026-10-14T17:47:40Z"),
    ("anthropic-organization-id", "org"),
    ("openai-organization", "org"),
    ("openai-project", "proj"),
    ("openai-processing-ms", "12"),
    ("openai-version", "2020-10-01"),
    ("apim-request-id", "third"),
    ("X-Request-Id", "second"),
    ("Request-Id", "first"),
]
RETRY = [("retry-after", "27"), ("retry-after-ms", "26604"), ("x-should-retry", "true")]
UPSTREAM_ID = ("x-upstream-request-id", "first")


def test_a_client_of_the_same_dialect_gets_limits_and_timings() -> None:
    assert answer_headers(PROVIDER, native=True) == [
        *RETRY,
        ("x-ratelimit-limit-tokens", "10000"),
        ("anthropic-ratelimit-tokens-reset", "2026-10-14T17:47:40Z"),
        ("openai-processing-ms", "12"),
        ("openai-version", "2020-10-01"),
        UPSTREAM_ID,
    ]


def test_a_client_of_another_dialect_gets_what_every_sdk_reads() -> None:
    assert answer_headers(PROVIDER, native=False) == [*RETRY, UPSTREAM_ID]


def test_a_header_that_connection_names_goes_no_further() -> None:
    pairs = [("anthropic-beta", "a"), ("Connection", "close, Anthropic-Beta"), ("anthropic-version", "b")]
    assert request_headers(pairs, "anthropic", native=True, byok=False) == [("anthropic-version", "b")]
    pairs = [("Retry-After", "1"), ("connection", "retry-after")]
    assert answer_headers(pairs, native=True) == []


@each("value", ["a\r\nb: c", "a\0", "a\x7f", "a\x1b[0m", "é", "\udcff", "a\u2028b", "a" * 1025])
def test_a_value_that_is_not_plain_ascii_is_dropped(value: str) -> None:
    assert answer_headers([("retry-after", value), ("anthropic-x", value), ("request-id", value)], native=True) == []
    assert request_headers([("anthropic-beta", value)], "anthropic", native=True, byok=True) == []


@each("name", ["anthropic-a b", "anthropic-\r\nx", "anthropic-é", "anthropic-a:b", "Anthropic-K\u212a"])
def test_a_name_that_is_no_token_is_dropped(name: str) -> None:
    assert answer_headers([(name, "1")], native=True) == []
    assert request_headers([(name, "1")], "anthropic", native=True, byok=True) == []


# RFC 9110, 7.6.1, and the older ones that some still send.
HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


@each("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_headers_never_pass(name: str) -> None:
    for dialect in ("anthropic", "openai-chat"):
        assert request_headers([(name.title(), "x")], dialect, native=True, byok=True) == []
    assert answer_headers([(name.title(), "x")], native=True) == []


def recordings() -> list[Any]:
    files = sorted((SHARED / "wire").rglob("*.json"))
    answers = [(path.stem, json.loads(path.read_text())["response"]["headers"]) for path in files]
    return [pytest.param(list(headers.items()), id=name) for name, headers in answers if len(headers) > 2]


@each("pairs", recordings())
def test_recorded_answers_tell_nothing_of_their_front_ends(pairs: list[tuple[str, str]]) -> None:
    told = {name for name, _ in answer_headers(pairs, native=True)}
    heads = ("retry-after", "x-should-retry", "x-ratelimit-", "anthropic-", "openai-", "x-upstream-request-id")
    assert all(name.startswith(heads) for name in told)
    ids = {"request-id", "x-request-id", "apim-request-id", "x-amzn-requestid", "cf-ray"}
    assert ("x-upstream-request-id" in told) == any(name.lower() in ids for name, _ in pairs)


# -- which requests are alike -------------------------------------------------------------------------------------

HEADER = st.sampled_from(
    [
        "Anthropic-Beta",
        "anthropic-version",
        "OpenAI-Beta",
        "OpenAI-Organization",
        "Idempotency-Key",
        "Connection",
        "X-A",
    ]
)


@given(st.lists(st.tuples(HEADER, st.sampled_from(["1", "x-a", "anthropic-beta, close"]))))
def test_what_may_pass_is_all_that_the_headers_beside_a_house_key_depend_on(sent: list[tuple[str, str]]) -> None:
    for dialect in ("openai-chat", "openai-responses", "anthropic", "workers-ai", "gemini", "ollama"):
        for native in (True, False):
            passed = request_headers(sent, dialect, native, byok=False)
            assert request_headers(may_pass(sent), dialect, native, byok=False) == passed


def test_an_idempotency_key_makes_no_other_request_of_one() -> None:
    assert may_pass([("Idempotency-Key", "1"), ("OpenAI-Organization", "o"), ("OpenAI-Beta", "b")]) == (
        ("OpenAI-Beta", "b"),
    )


HEADS: dict[str, dict[str, str]] = {
    "nothing that passes": {"content-type": "application/json", "content-length": "2"},
    "a provider's usual ones": {name.lower(): value for name, value in PROVIDER},
    "a connection that closes": {"connection": "Close", "retry-after": "1"},
    "a value that nobody may see": {"retry-after": "a\x00b", "x-should-retry": "true"},
}
ODD: dict[str, dict[str, str]] = {
    "a header that is for the next hop alone": {"connection": "retry-after", "retry-after": "1"},
    "a request id that is none": {"request-id": "a\x00b", "x-request-id": "two"},
    "more names than are remembered": {f"anthropic-{n}": "1" for n in range(65)},
}


@each("native", [True, False], ids=["native", "foreign"])
@each("headers", HEADS.values(), ids=HEADS)
def test_the_lines_of_an_answer_are_its_headers(headers: dict[str, str], native: bool) -> None:
    for withheld in ((), ("retry-after", "x-ratelimit-")):
        told = answer_headers(headers.items(), native)
        lines = "".join(f"{name}: {value}\r\n" for name, value in told if not name.startswith(withheld or ("-",)))
        assert answer_lines(headers, native, withheld) == lines
        assert answer_lines(headers, native, withheld) == lines, "the second time, when the names are known"


@pytest.mark.parametrize("headers", ODD.values(), ids=ODD)
def test_of_odd_heads_there_are_no_lines(headers: dict[str, str]) -> None:
    assert answer_lines(headers, True, ()) is None
