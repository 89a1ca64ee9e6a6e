"""What providers do wrong, as data: rows U1 to U69 of the catalogue in all their variants, and how each has to end."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from attrs import field, frozen
from playbook import Tongue
from upstream import CUT, LAST, RESET, SILENCE, STREAM_HEAD, Script, Step, head, piece, plain, streamed

from faults.bench import CALLER_KEY, HOUSE_KEY
from faults.responses import frames

QUICK = (
    'timeouts = { connect = "500ms", first_event = "500ms", first_content = "1s", answer = "700ms", idle = "500ms" }'
)
QUIET = 'timeouts = { idle = "500ms" }'
LIMITED = 'timeouts = { total = "8s" }'
SHORT = 'timeouts = { answer = "2s", total = "2s" }'


@frozen
class Outcome:
    """`code` ok: `text` arrives whole. Else `status` with that code; where content had left before, 200 and the error
    in the stream (`in_band`) or a broken transfer (`broken`). `on`: another candidate would have been asked."""

    status: int = 200
    code: str = "ok"
    text: str | None = None
    in_band: bool = False
    broken: bool = False
    on: bool = True

    def __str__(self) -> str:
        if self.code == "ok":
            return "the whole answer"
        if self.in_band:
            return f"200, the text so far, then an error event `{self.code}` and no terminator"
        if self.broken:
            return "200 and what there was, then a broken transfer"
        return f"{self.status}, `{self.code}`"


def fails(status: int, code: str, *, on: bool = True) -> Outcome:
    return Outcome(status, code, on=on)


def told(code: str, text: str = "one") -> Outcome:
    return Outcome(200, code, text, in_band=True)


GOOD = Outcome(text="onetwo")
BROKEN = fails(502, "bad_upstream_response")
LATE = fails(504, "upstream_timeout")

Sent = Callable[[Tongue, bool], Script]


@frozen(eq=False)
class Fault:
    """One variant of a row. `plain` and `stream` None: the fault does not exist there."""

    number: str
    sent: str
    script: Sent
    plain: Outcome | None
    stream: Outcome | None
    more: str = ""  # keys of the provider
    variant: int = 0
    but: Mapping[str, Outcome] = field(
        factory=dict
    )  # by the provider's words, where it is "translated", or by the "plain exchange"

    @property
    def slot(self) -> str:
        return f"{self.number}-{self.variant}"


FAULTS: list[Fault] = []


def fault(
    number: str,
    sent: str,
    script: Sent | Script,
    plain: Outcome | None,
    stream: Outcome | None,
    more: str = "",
    but: Mapping[str, Outcome] | None = None,
) -> None:
    play: Sent = script if callable(script) else lambda _tongue, _stream: script
    FAULTS.append(Fault(number, sent, play, plain, stream, more, len(FAULTS), but or {}))


def answer(tongue: Tongue, stream: bool) -> Script:
    return streamed(frames(tongue, "one", "two")) if stream else plain(tongue.answer("onetwo"))


def document(value: Any) -> Script:
    return plain(value if isinstance(value, bytes) else orjson.dumps(value))


def begun(tongue: Tongue) -> list[bytes]:
    """Frames up to the first word."""
    found = frames(tongue, "one", "two")
    return found[: found.index(tongue.text("one")) + 1]


def rest(tongue: Tongue) -> list[bytes]:
    return frames(tongue, "one", "two")[len(begun(tongue)) :]


def body_of(script: Script) -> bytes:
    return b"".join(step for step in script if isinstance(step, bytes))


# -- connecting, headers -----------------------------------------------------------------------------------------

fault("U11", "reads the request, then closes", [CUT], BROKEN, BROKEN)
fault("U11", "reads the request, then resets", [RESET], BROKEN, BROKEN)
fault("U12", "never answers", [SILENCE], LATE, LATE, QUICK)
HALF = b"HTTP/1.1 200 OK\r\nContent-Ty"
fault("U13", "half a head, then reset", [HALF, RESET], BROKEN, BROKEN)
fault("U13", "half a head, then close", [HALF, CUT], BROKEN, BROKEN)
fault("U13", "half a head, then silence", [HALF, SILENCE], LATE, LATE, QUICK)
for bad in (
    b"hello\r\n\r\n",
    b"HTTP/1.1 abc\r\n\r\n",
    b"HTTP/1.1 000 No\r\n\r\n",
    b"HTTP/1.1 1000 No\r\n\r\n",
    b"\0" * 64,
):
    fault("U14", f"{bad[:16]!r}", [bad, CUT], BROKEN, BROKEN)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
fault("U15", "100 and 103 first", lambda t, s: [INTERIM, *answer(t, s)], GOOD, GOOD)
MANY = b"HTTP/1.1 102 Processing\r\n\r\n" * 1000
fault("U16", "100,000 interim answers", lambda t, s: [*[MANY] * 100, *answer(t, s)], BROKEN, BROKEN)
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
fault("U17", "101 unasked", lambda t, s: [UPGRADE, *answer(t, s)], BROKEN, BROKEN)
fault("U18", "a header of 1 MiB", [b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * (1 << 20) + b"\r\n\r\n", CUT], BROKEN, BROKEN)
fault(
    "U18", "5,000 headers",
    [b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(5000)) + b"\r\n", CUT], BROKEN, BROKEN,
)  # fmt: skip


def with_head(more: bytes) -> Sent:
    def script(tongue: Tongue, stream: bool) -> Script:
        first, *others = answer(tongue, stream)
        assert isinstance(first, bytes)
        status, border, behind = first.partition(b"\r\n")
        return [status + border + more + behind, *others]

    return script


for bad in (b"\r", b"\0"):
    fault("U19", f"{bad!r} in a value", with_head(b"anthropic-x: a" + bad + b"Evil: 1\r\n"), BROKEN, BROKEN)
fault(
    "U19",
    "a control byte in a value",
    with_head(b"anthropic-x: a\x01hop\r\n"),
    BROKEN,
    BROKEN,
    but={"plain exchange": GOOD},  # without that header
)
fault(
    "U20",
    "Content-Type and Set-Cookie twice",
    with_head(b"Content-Type: text/plain\r\nSet-Cookie: a=1\r\n" * 2),
    GOOD,
    GOOD,
)
fault(
    "U20",
    "two lengths that differ",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}\n", CUT],
    BROKEN,
    BROKEN,
)
HOP = (
    b"Keep-Alive: timeout=5\r\nConnection: x-named\r\nX-Named: hop\r\nServer: inner\r\nSet-Cookie: sid=hop\r\n"
    b"Access-Control-Allow-Origin: *\r\nProxy-Authenticate: hop\r\nX-Internal: hop\r\n"
)
fault("U21", "hop-by-hop, Server, Set-Cookie, CORS", with_head(HOP), GOOD, GOOD)
for status in (301, 302, 307, 308):
    where = {301: "file:///etc/passwd", 302: "http://169.254.169.254/", 307: "/", 308: "https://example.com/"}[status]
    fault("U23", f"{status} to {where}", [head(status, "text/plain", Content_Length=0, Location=where)], BROKEN, BROKEN)
for status in (204, 304, 300):
    fault(
        "U24",
        f"{status}",
        [head(status, "application/json", **({"Content_Length": 0} if status == 300 else {}))],
        BROKEN,
        BROKEN,
    )

# -- plain answers -----------------------------------------------------------------------------------------------


def cut_at(share: float, act: Any, *, length: int = 0, chunked: bool = False) -> Sent:
    """A plain answer of which so much comes; its length is told with so many bytes more."""

    def script(tongue: Tongue, _stream: bool) -> Script:
        body = orjson.dumps(tongue.answer("onetwo"))
        part = body[: int(len(body) * share)]
        if chunked:
            return [head(200, "application/json", Transfer_Encoding="chunked") + piece(part), act]
        return [head(200, "application/json", Content_Length=len(body) + length) + part, act]

    return script


fault("U25", "half, then reset", cut_at(0.5, RESET), BROKEN, None)
fault("U25", "half, then close", cut_at(0.5, CUT), BROKEN, None)
fault("U25", "half, then silence", cut_at(0.5, SILENCE), LATE, None, QUICK)
fault("U26", "Content-Length too large", cut_at(1, CUT, length=100), BROKEN, None)
fault("U27", "Content-Length too small", cut_at(1, CUT, length=-20), BROKEN, None)


def both_lengths(tongue: Tongue, _stream: bool) -> Script:
    body = orjson.dumps(tongue.answer("onetwo"))
    return [head(200, "application/json", Content_Length=len(body), Transfer_Encoding="chunked") + piece(body) + LAST]


fault("U28", "Content-Length and chunked", both_lengths, GOOD, None, but={"plain exchange": BROKEN})
fault(
    "U29",
    "bad chunk size",
    [head(200, "application/json", Transfer_Encoding="chunked") + b"zz\r\n{}\r\n0\r\n\r\n"],
    BROKEN,
    None,
)
fault("U29", "no last chunk", cut_at(1, CUT, chunked=True), BROKEN, None)
for text in (b"", b"{", b'{"choices": [', b"null", b"[]", b'"text"', b"{}"):
    fault("U31", f"{text.decode() or 'nothing'}", document(text), BROKEN, BROKEN)
fault(
    "U32",
    "an error of overload under 200",
    lambda t, _s: document(t.error("overloaded_error", "busy")),
    fails(529, "upstream_overloaded"),
    fails(529, "upstream_overloaded"),
)
fault(
    "U32",
    "an error of its own under 200",
    lambda t, _s: document(t.error("server_error" if t.name != "anthropic" else "api_error", "no")),
    fails(500, "upstream_failed"),
    fails(500, "upstream_failed"),
)
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
fault("U33", "a page", plain(PAGE, content_type="text/html"), BROKEN, BROKEN)
fault("U33", "a page called JSON", plain(PAGE), BROKEN, BROKEN)
fault("U33", "a page called a stream", plain(PAGE, content_type="text/event-stream"), BROKEN, BROKEN)
for text in (PAGE, b"down for maintenance", b""):
    fault(
        "U34",
        f"503 with {text[:15].decode() or 'nothing'}",
        plain(text, 503, "text/html"),
        fails(503, "upstream_failed"),
        fails(503, "upstream_failed"),
    )
    fault(
        "U34",
        f"400 with {text[:15].decode() or 'nothing'}",
        plain(text, 400, "text/html"),
        fails(400, "upstream_rejected", on=False),
        fails(400, "upstream_rejected", on=False),
    )
fault(
    "U35", "good JSON called text/html", lambda t, _s: plain(t.answer("onetwo"), content_type="text/html"), GOOD, GOOD
)
fault("U35", "JSON for a stream", lambda t, _s: plain(t.answer("onetwo")), None, GOOD)
fault("U35", "a stream for JSON", lambda t, _s: streamed(frames(t, "one", "two")), BROKEN, None)


def empty(stop: str | None) -> Sent:
    """An answer without text; `stop` is the reason in OpenAI's word, or none."""

    def script(tongue: Tongue, stream: bool) -> Script:
        made: dict[str, Any] = tongue.answer("")
        if tongue.name == "openai-chat":
            made["choices"][0]["finish_reason"] = stop
        elif tongue.name == "anthropic":
            made["content"], made["stop_reason"] = [], "end_turn" if stop else None
        else:
            made["output"], made["status"] = [], "completed" if stop else "in_progress"
        if not stream:
            return plain(made)
        if stop is None:
            return streamed([tongue.start])
        end = tongue.end.replace(b"onetwo", b"")
        return streamed([tongue.start, *(frame for frame in (tongue.finish, end) if frame)])

    return script


fault("U36", "no content, with a finish reason", empty("stop"), Outcome(text=""), Outcome(text=""))
fault("U36", "no content and no reason", empty(None), BROKEN, BROKEN)


def usage(value: Any) -> Sent:
    """Every number of the usage is that value; `...` is no usage at all."""

    def script(tongue: Tongue, stream: bool) -> Script:
        made: dict[str, Any] = tongue.answer("onetwo")
        if value is ...:
            del made["usage"]
        else:
            made["usage"] = dict.fromkeys(made["usage"], value)
        if not stream:
            return plain(made)
        text = b'"usage":' + orjson.dumps(None if value is ... else made["usage"])
        swapped = [frame.replace(b'"usage":{"output_tokens":2}', text) for frame in frames(tongue, "one", "two")]
        return streamed(swapped)

    return script


for odd in (..., None, -1, "many", 1e30, 0.5):
    fault("U37", f"usage: {'missing' if odd is ... else odd!r}", usage(odd), GOOD, GOOD)
fault("U38", "100,000 nested brackets", document(b"[" * 100_000 + b"]" * 100_000), BROKEN, BROKEN)
fault("U38", "100,000 nested objects", document(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), BROKEN, BROKEN)


def endless(text: bytes, *, begin: bytes = b"") -> Sent:
    def script(_tongue: Tongue, _stream: bool) -> Script:
        opening = head(200, "application/json", Transfer_Encoding="chunked") + (piece(begin) if begin else b"")
        return [opening, *[piece(text * (1 << 16))] * 640]

    return script


fault("U39", "40 MiB that are no JSON", endless(b"x"), BROKEN, BROKEN)


def encoded(coding: str, body: bytes | None = None) -> Sent:
    def script(tongue: Tongue, stream: bool) -> Script:
        if body is not None:
            return plain(body, Content_Encoding=coding)
        if stream:
            begun = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: %b\r\n\r\n" % coding.encode())
            return streamed(frames(tongue, "one", "two"), stream_head=begun)
        return plain(tongue.answer("onetwo"), Content_Encoding=coding)

    return script


BOMB = gzip.compress(bytes(16 << 20), 9) * 64  # 1 MiB that opens to 1 GiB
fault("U40", "a gzip bomb of 1 GiB in 1 MiB", encoded("gzip", BOMB), BROKEN, BROKEN)
for coding in ("gzip", "br", "x-own"):
    fault("U40", f"says {coding}, and is not", encoded(coding), BROKEN, BROKEN)


def bad_text(raw: bytes) -> Sent:
    def script(tongue: Tongue, stream: bool) -> Script:
        if stream:
            return streamed([*begun(tongue), tongue.text("two").replace(b"two", raw), SILENCE], last=False)
        return plain(orjson.dumps(tongue.answer("onetwo")).replace(b"onetwo", raw))

    return script


def no_text_first(tongue: Tongue, _stream: bool) -> Script:
    bad = [frame.replace(b"one", b"\xff") for frame in frames(tongue, "one", "two")]
    return streamed([*bad, SILENCE], last=False)


for name, raw in {"invalid UTF-8": b"\xff\xfe", "overlong": b"\xc0\xaf", "encoded surrogates": b"\xed\xa0\x80"}.items():
    fault("U41", name, bad_text(raw), BROKEN, told("bad_upstream_response"))
fault("U41", "invalid UTF-8 before content", no_text_first, None, BROKEN)


def escaped(tongue: Tongue, stream: bool) -> Script:
    raw = rb"\u0000\ud800"
    if stream:
        return streamed([frame.replace(b"two", raw) for frame in frames(tongue, "one", "two")])
    return plain(orjson.dumps(tongue.answer("onetwo")).replace(b"two", raw))


fault("U42", "an escaped NUL and a lone surrogate", escaped, Outcome(text="..."), Outcome(text="..."))


def dripping(byte: bytes, times: int) -> list[Step]:
    return [step for _ in range(times) for step in (byte, 0.1)]


fault(
    "U43",
    "one byte each 100 ms",
    lambda t, s: [head(200, "application/json", Content_Length=10**6), b"{", *dripping(b" ", 100)],
    LATE,
    None,
    SHORT,
)

# -- streams -----------------------------------------------------------------------------------------------------

fault("U44", "200, then silence", [STREAM_HEAD, SILENCE], LATE, LATE, QUICK)
fault("U44", "200 and a role, then silence", lambda t, _s: [STREAM_HEAD, piece(t.start), SILENCE], None, LATE, QUICK)


def beginning(kind: str, *, behind_role: bool) -> Sent:
    return lambda t, _s: streamed([*([t.start] if behind_role else []), t.error_frame(kind, "no")])


for kind, expected in {
    "overloaded_error": fails(529, "upstream_overloaded"),
    "rate_limit_error": fails(429, "upstream_rate_limited"),
    "api_error": fails(500, "upstream_failed"),
}.items():
    fault("U45", f"the first event is {kind}", beginning(kind, behind_role=False), None, expected)
    fault("U45", f"behind the role comes {kind}", beginning(kind, behind_role=True), None, expected)


def broken_off(*after: Any, last: bool = False) -> Sent:
    return lambda tongue, _stream: streamed([*begun(tongue), *after], last=last)


fault("U46", "text, then silence", broken_off(SILENCE), None, told("upstream_timeout"), QUIET)
fault("U47", "text, then reset", broken_off(RESET), None, told("bad_upstream_response"))
fault("U47", "text, then close without the last chunk", broken_off(CUT), None, told("bad_upstream_response"))
fault("U48", "text, then a clean end", broken_off(last=True), None, told("bad_upstream_response"))


def without_terminator(tongue: Tongue, _stream: bool) -> Script:
    return streamed([*begun(tongue), *rest(tongue)[:-1]])


fault(
    "U49", "a finish reason and no terminator", without_terminator, None, GOOD,
    but={"responses": told("bad_upstream_response", "onetwo")},  # its terminator holds the whole answer
)  # fmt: skip


def no_reason(tongue: Tongue, _stream: bool) -> Script:
    return streamed([frame for frame in frames(tongue, "one", "two") if frame != tongue.finish])


fault("U50", "a terminator and no finish reason", no_reason, None, GOOD)


def failing_in_the_middle(*after: Any, last: bool) -> Sent:
    return lambda t, _s: streamed([*begun(t), t.error_frame("api_error", "lost my way"), *after], last=last)


fault("U51", "an error in the middle, then the end", failing_in_the_middle(last=True), None, told("upstream_failed"))
fault(
    "U51",
    "an error in the middle, then silence",
    failing_in_the_middle(SILENCE, last=False),
    None,
    told("upstream_failed"),
)
fault(
    "U52",
    "broken JSON in the middle",
    lambda t, _s: streamed([*begun(t), b'data: {"x": \n\n', *rest(t)]),
    None,
    Outcome(text="..."),
    but={"translated": told("bad_upstream_response")},
)
UNKNOWN = b'event: tomorrow\ndata: {"type": "tomorrow", "object": "tomorrow"}\n\n'
fault("U53", "unknown events", lambda t, _s: streamed([t.start, UNKNOWN, *frames(t, "one", "two")[1:]]), None, GOOD)
fault(
    "U54",
    "events behind the terminator",
    lambda t, _s: streamed([*frames(t, "one", "two"), t.text("three")]),
    None,
    GOOD,
)


def torn(cut: Callable[[bytes], int], text: str = "two") -> Sent:
    def script(tongue: Tongue, _stream: bool) -> Script:
        frame = tongue.text(text)
        return streamed([*begun(tongue), frame[: cut(frame)]])

    return script


fault("U55", "the end inside an event", torn(lambda frame: len(frame) // 2), None, told("bad_upstream_response"))
fault(
    "U55",
    "the end inside a character",
    torn(lambda frame: frame.index("ß".encode()) + 1, "ß"),
    None,
    told("bad_upstream_response"),
)


def ended_by(end: bytes) -> Sent:
    def script(tongue: Tongue, _stream: bool) -> Script:
        return streamed([frame.replace(b"\n", end) for frame in frames(tongue, "one", "two")])

    return script


fault("U56", "CRLF", ended_by(b"\r\n"), None, GOOD)
fault("U56", "CR", ended_by(b"\r"), None, GOOD)
fault(
    "U56",
    "a BOM and comments",
    lambda t, _s: streamed(
        [b"\xef\xbb\xbf" + frames(t, "one", "two")[0], b": a\n: b\n\n", *frames(t, "one", "two")[1:]]
    ),
    None,
    GOOD,
)


def bytewise(tongue: Tongue, _stream: bool) -> Script:
    whole = b"".join(frames(tongue, "one", "two")).replace(b"\n", b"\r\n")
    return streamed([whole[at : at + 1] for at in range(len(whole))])


fault("U57", "each byte in its own packet, CRLF", bytewise, None, GOOD)
fault("U57", "all in one packet", lambda t, _s: [body_of(streamed([b"".join(frames(t, "one", "two"))]))], None, GOOD)
fault(
    "U60",
    "a line of 40 MiB without an end",
    lambda t, _s: [STREAM_HEAD, *map(piece, begun(t)), piece(b"data: "), *[piece(b"x" * (1 << 20))] * 40],
    None,
    Outcome(200, "bad_upstream_response", broken=True),
    but={"translated": told("bad_upstream_response")},
)


def beating(tongue: Tongue, _stream: bool) -> Script:
    beat: list[Step] = [piece(tongue.keep_alive), 0.02]
    return [STREAM_HEAD, *map(piece, begun(tongue)), *beat * 1_000]


fault("U61", "a stream without an end", beating, None, told("upstream_timeout"), LIMITED)

# -- statuses ----------------------------------------------------------------------------------------------------


def failing(status: int, kind: str = "some_error", message: str = "no", **headers: Any) -> Sent:
    return lambda t, _s: plain(t.error(kind, message), status, **headers)


def both(number: str, sent: str, script: Sent, outcome: Outcome) -> None:
    fault(number, sent, script, outcome, outcome)


for status in (400, 413, 422):
    both("U64", f"{status}", failing(status, "invalid_request_error"), fails(status, "upstream_rejected", on=False))
both(
    "U64", "404 for a model", failing(404, "not_found_error", "model not found"), fails(404, "upstream_model_not_found")
)
for status in (401, 403):
    both("U65", f"{status} for our key", failing(status, "authentication_error"), fails(502, "upstream_credentials"))
REPEATED = f"Incorrect API key provided: {HOUSE_KEY}, not {CALLER_KEY}."
both(
    "U66",
    "401 that repeats the key",
    failing(401, "authentication_error", REPEATED, X_Request_Id=HOUSE_KEY),
    fails(502, "upstream_credentials"),
)
both(
    "U66",
    "400 that repeats the key",
    failing(400, "invalid_request_error", REPEATED, anthropic_x=HOUSE_KEY, x_ratelimit_limit_x=HOUSE_KEY),
    fails(400, "upstream_rejected", on=False),
)
COMMENT = f": asked with {HOUSE_KEY}\n\n".encode()
fault(
    "U66",
    "comments in a stream that repeat the key",
    lambda t, _s: streamed([piece for frame in frames(t, "one", "two") for piece in (COMMENT, frame)]),
    None,
    GOOD,
)
for said in ("86400", "Wed, 21 Oct 2099 07:28:00 GMT"):
    both(
        "U67",
        f"429 with Retry-After: {said}",
        failing(429, "rate_limit_error", Retry_After=said),
        fails(429, "upstream_rate_limited"),
    )
for said in ("0", "-5", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"):
    both(
        "U67",
        f"429 with Retry-After: {said}",
        failing(429, "rate_limit_error", Retry_After=said),
        fails(429, "upstream_rate_limited"),
    )
both(
    "U67",
    "429 with retry-after-ms",
    failing(429, "rate_limit_error", retry_after_ms="900000"),
    fails(429, "upstream_rate_limited"),
)
for status in (500, 502, 503, 504, 520, 521, 522, 523, 524):
    both("U68", f"{status}", failing(status, "api_error"), fails(status, "upstream_failed"))
both("U68", "529", failing(529, "overloaded_error"), fails(529, "upstream_overloaded"))
for status in (408, 409, 425, 501, 505, 599):
    both("U69", f"{status}", failing(status), fails(status, "upstream_failed"))
for status in (418, 451, 499):
    both("U69", f"{status}", failing(status), fails(status, "upstream_rejected", on=False))
