"""HTTP headers as values: which of them pass, and how they are read and written. No header object, no status.

Both directions are allow-lists, since what nobody thought of must not pass. Names come out in lower case; names of a
caller's making never do. Lists of pairs keep their order and a header that stands twice.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from itertools import accumulate

Pairs = Iterable[tuple[str, str]]

DAY = 86_400.0  # seconds; the longest wait that is believed

MOST_NAMES = 64  # of headers that are remembered together
_NAME = re.compile(r"[A-Za-z0-9-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]{0,1024}")  # whole: no control byte, nothing that two parsers read differently

_SIGNS = {
    "→": "->",
    "←": "<-",
    "⇒": "=>",
    "≤": "<=",
    "≥": ">=",
    "×": "x",
    "€": "EUR",
    **dict.fromkeys("–—−", "-"),
    **dict.fromkeys("‘’‚", "'"),
    **dict.fromkeys("“”„", '"'),
    **dict.fromkeys("\t\r\n\v\f\x85\u2028\u2029", " "),
}

_OPENAI = ("openai-chat", "openai-responses")
_OPEN_REQUEST = {"anthropic": ("anthropic",)} | dict.fromkeys(_OPENAI, ("openai-beta",))
_SWITCHES = {"anthropic": frozenset({"anthropic-beta"})} | dict.fromkeys(_OPENAI, frozenset({"openai-beta"}))
_ACCOUNT: dict[str, tuple[str, ...]] = dict.fromkeys(_OPENAI, ("openai-organization", "openai-project"))
_ANSWER = ("retry-after", "retry-after-ms", "x-should-retry")
_NATIVE_ANSWER = (
    "anthropic",
    "openai-model",
    "openai-processing-ms",
    "openai-version",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
)
_PRIVATE = ("anthropic-organization-id", "anthropic-workspace-id")  # whose account it is, is not the client's business
_REQUEST_IDS = ("request-id", "x-request-id", "apim-request-id", "x-amzn-requestid", "cf-ray")

_LIMITS = [
    *((f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}") for kind in ("requests", "tokens")),
    *(
        (f"anthropic-ratelimit-{kind}-remaining", f"anthropic-ratelimit-{kind}-reset")
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
]
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|ms|m|s|us|µs|ns))+")
_PART = re.compile(r"([0-9.]+)(h|ms|m|s|us|µs|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def printable(value: str, limit: int = 1024) -> str:
    """`value` as a header may carry it: printable ASCII in one line of at most `limit` characters.

    Known signs are written out (an arrow as `->`), letters lose their accents, any other character becomes `?`; line
    ends and tabs become blanks, control characters go. Cut between words where that costs less than half, with `...`.
    """
    if not (value.isascii() and value.isprintable()):
        value = "".join(map(_to_ascii, value))
    value = value.strip()
    if len(value) <= limit:
        return value
    cut = value[: limit - 3]
    words = cut.rpartition(" ")[0].rstrip()
    return (words if len(words) > limit // 2 else cut) + "..."


def join_capped(items: Iterable[str], limit: int = 1024) -> str:
    """`items` joined by commas without blanks in at most `limit` characters; `+n` counts those that found no room."""
    shown = [printable(item, limit) for item in items]
    if len(text := ",".join(shown)) <= limit:
        return text
    room = limit - len(f"+{len(shown)}")
    fitting = sum(end <= room for end in accumulate(len(item) + 1 for item in shown))
    return ",".join((*shown[:fitting], f"+{len(shown) - fitting}"))


def retry_after(headers: Mapping[str, str], now: float, limited: bool = False) -> float | None:
    """Seconds until the sender wants to be asked again, from 0 to a day; None where it does not say.

    `retry-after-ms` and Azure's `x-ms-retry-after-ms` come first, as the SDKs read them, then `retry-after` in seconds,
    fractions too, or as a date; what lies in the past is 0. With `limited` (the status was 429) the rate-limit headers
    count where none of these can be read: the latest reset of the limits that are used up; where none is, the earliest
    of all, since it is unknown which one the request was too big for. `now` is in Unix seconds; `headers` ignores case
    or has lower-case names.
    """
    waits = (
        _number(headers.get("retry-after-ms"), 1e-3),
        _number(headers.get("x-ms-retry-after-ms"), 1e-3),
        _number(headers.get("retry-after"), 1.0),
        _until(headers.get("retry-after"), now, parsedate_to_datetime),
    )
    wait = next((wait for wait in waits if wait is not None), None)
    if wait is None and limited:
        wait = _reset(headers, now)
    return None if wait is None else min(max(wait, 0.0), DAY)


def request_headers(client_headers: Pairs, dialect: str, native: bool, byok: bool) -> list[tuple[str, str]]:
    """What of a client's headers goes to a provider that speaks `dialect`. Whoever sends adds the credential, the
    content type and the dialect's own defaults.

    - `native`, the client speaks that dialect too: `anthropic-*` to Anthropic's, `openai-beta` to OpenAI's. They say
      how the body is to be read, so on a translated hop they stay behind together with that body.
    - `byok`, the credential is the caller's own: `openai-organization` and `openai-project`, which name the account to
      bill, and on a native hop `idempotency-key`. On the house's account the same key from two clients would get one
      of them the other's answer.
    - never: User-Agent and `x-stainless-*`, which describe the client's machine (the gateway names itself); Accept and
      Accept-Encoding, which are the gateway's to choose; trace context, which tells of the inside; credentials,
      cookies, Host, forwarding and our own headers.
    """
    return _passed(client_headers, lambda name: _request_name(name, dialect, native, byok))


def may_pass(client_headers: Pairs) -> tuple[tuple[str, str], ...]:
    """Those of a client's headers that `request_headers` looks at without `byok`, whoever the provider is: what says
    which requests go out with the same headers."""
    return tuple((name, value) for name, value in client_headers if _is_looked_at(name.lower()))


def _is_looked_at(lower: str) -> bool:
    return lower == "connection" or any(_any_of(lower, names) for names in _OPEN_REQUEST.values())


def left_behind(client_headers: Pairs, dialect: str) -> tuple[str, ...]:
    """The names of a client's headers that turn something on, which only a provider of its own `dialect` could do: on a
    translated hop their other halves in the body stay behind as well."""
    names = {name.lower() for name, _ in client_headers}
    return tuple(sorted(names & _SWITCHES.get(dialect, frozenset())))


def answer_headers(upstream_headers: Pairs, native: bool) -> list[tuple[str, str]]:
    """What of a provider's answer headers may reach the client; the content type is the caller's.

    - always: `retry-after`, `retry-after-ms`, `x-should-retry`, which every SDK reads.
    - `native`: rate limits (`x-ratelimit-*`), `anthropic-*` and `openai-processing-ms`, `-version`, `-model`; not what
      names the account (organization, workspace, project).
    - the provider's request id as `x-upstream-request-id`, for its support desk: `x-request-id` is ours.
    - never: Set-Cookie, Server, Via, CORS, caching, security policies, and whatever else a front end adds.
    """
    passed = _passed(upstream_headers, _native_answer_name if native else _foreign_answer_name)
    if not passed:
        return passed
    ids = dict(pair for pair in passed if pair[0] in _REQUEST_IDS)
    told = [pair for pair in passed if pair[0] not in ids]
    return told + [("x-upstream-request-id", ids[name]) for name in _REQUEST_IDS if name in ids][:1]


def answer_lines(headers: Mapping[str, str], native: bool, withheld: tuple[str, ...]) -> str | None:
    """As `answer_headers`, on the wire; `headers` has lower-case names, and of those that begin with a name `withheld`
    none passes. None where more than the names has a say."""
    if len(headers) > MOST_NAMES or headers.get("connection", "close").lower() not in ("close", "keep-alive"):
        return None
    lines = ""
    for name, told in _passing(tuple(headers), native, withheld):
        value = headers[name]
        if _VALUE.fullmatch(value):
            lines += f"{told}: {value}\r\n"
        elif told == "x-upstream-request-id":
            return None  # another one may take its place
    return lines


@lru_cache(maxsize=64)
def _passing(names: tuple[str, ...], native: bool, withheld: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Names that pass, and as what they are told."""
    passed = answer_headers(((name, name) for name in names if name != "connection"), native)
    return tuple((name, told) for told, name in passed if not told.startswith(withheld))


def _passed(headers: Pairs, passing_name: Callable[[str], str]) -> list[tuple[str, str]]:
    """`passing_name` gives a name's lower-case form, or "" for one that stays behind."""
    passed: list[tuple[str, str]] = []
    named: set[str] = set()
    for name, value in headers:
        lower = passing_name(name)
        if lower == "connection":
            named.update(token.strip().lower() for token in value.split(","))
        elif lower and _VALUE.fullmatch(value):
            passed.append((lower, value))
    return [pair for pair in passed if pair[0] not in named] if named else passed


# What a name means never changes, and the same few come with every request: bounded, since the names are others'.
@lru_cache(maxsize=512)
def _request_name(name: str, dialect: str, native: bool, byok: bool) -> str:
    lower = name.lower()
    passes = (
        lower == "connection"
        or (native and _any_of(lower, _OPEN_REQUEST.get(dialect, ())))
        or (byok and lower in _ACCOUNT.get(dialect, ()))
        or (byok and native and lower == "idempotency-key")
    )
    return lower if passes and _NAME.fullmatch(name) else ""


@lru_cache(maxsize=512)
def _answer_name(name: str, native: bool) -> str:
    lower = name.lower()
    passes = (
        lower == "connection"
        or lower in _ANSWER
        or lower in _REQUEST_IDS
        or (native and lower not in _PRIVATE and _any_of(lower, _NATIVE_ANSWER))
    )
    return lower if passes and _NAME.fullmatch(name) else ""


_native_answer_name, _foreign_answer_name = partial(_answer_name, native=True), partial(_answer_name, native=False)


def _any_of(name: str, wanted: tuple[str, ...]) -> bool:
    """Whether `name` is one of these, or begins with one of these and a dash."""
    return any(name == one or name.startswith(f"{one}-") for one in wanted)


def _to_ascii(char: str) -> str:
    if char in _SIGNS:
        return _SIGNS[char]
    if char.isascii():
        return char if char.isprintable() else ""
    if unicodedata.category(char) in ("Cc", "Cf", "Mn"):
        return ""
    plain = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return plain if plain and plain.isprintable() else "?"


def _number(text: str | None, unit: float) -> float | None:
    return float(text) * unit if text is not None and _NUMBER.fullmatch(text := text.strip()) else None


def _until(text: str | None, now: float, parse: Callable[[str], datetime]) -> float | None:
    if text is None:
        return None
    try:
        when = parse(text.strip())
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _reset(headers: Mapping[str, str], now: float) -> float | None:
    spent, all_waits = [], []
    for remaining, reset in _LIMITS:
        wait = _wait(headers.get(reset), now)
        if wait is None:
            continue
        all_waits.append(wait)
        left = _number(headers.get(remaining), 1.0)
        if left is not None and left <= 0:
            spent.append(wait)
    return max(spent) if spent else min(all_waits, default=None)


def _wait(text: str | None, now: float) -> float | None:
    """OpenAI's `6m0s` and `120ms` (a Go duration), Anthropic's RFC 3339 time, or bare seconds."""
    if text is not None and _DURATION.fullmatch(text := text.strip()):
        return sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(text))
    number = _number(text, 1.0)
    return _until(text, now, datetime.fromisoformat) if number is None else number
