"""One try of one candidate: send, judge the head, read up to the commit. Everything before the point of no return.

A try gives an `Opening`, an answer whose first content is in hand, or raises what failed. It writes nothing to the
client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from attrs import evolve

from proxy import ir
from proxy.dialects import failures
from proxy.dialects.dialect import Dialect, Operation, Reading, Voice
from proxy.errors import Foreign, UpstreamBroken, UpstreamError, UpstreamTimeout
from proxy.metrics import Number
from proxy.record import define
from proxy.routing.world import Pick
from proxy.server.call import Call
from proxy.server.credentials import NO_CREDENTIAL, Credential
from proxy.server.ledger import Attempt
from proxy.server.outgoing import Prepared
from proxy.server.respond import content_type_of
from proxy.server.upstream import Reply, read_up_to
from proxy.server.watchdog import Agenda, Watchdog
from proxy.streams import Passthrough, Stream, Translation, Unjudged, events_of
from proxy.wire import json_text, sse
from proxy.wire.headers import retry_after

PLAIN_LIMIT = 8 << 20  # a plain answer up to here is judged whole; beyond it is committed and flows
TRANSLATED_LIMIT = 32 << 20  # a translation needs the whole
MENDED_LIMIT = 64 << 20  # 2,048 vectors of 3,072 floats have 34 MB as base64
ERROR_LIMIT = 1 << 20
WORTH_FORGETTING = 4096
SUCCESS = frozenset({200, 201, 202, 203})
PAGES = (b"<!doctype html", b"<html")
NO_STREAM = frozenset({b"<", b"{", b"["})  # how a page or a JSON document begins, and no event
NO_EDITS: Mapping[str, int] = {}
VECTORS_ENCODED = {"vectors_encoded": 1}
UPSTREAM_IDS = ("x-request-id", "request-id", "cf-ray", "apim-request-id")


class Secrets(Protocol):
    """What no client may read."""

    def clean(self, text: str) -> str:
        """A provider's words without it."""

    def keys(self) -> list[str]:
        """Those of it that may stand in anything."""


@define(eq=False)
class Opening:
    """An answer that has begun well. `body` is all of a plain one where `whole`; `first` what of a stream may leave."""

    pick: Pick
    prepared: Prepared
    reply: Reply
    watchdog: Watchdog
    attempt: Attempt
    headers: Mapping[str, str]  # of the reply, less those that hold a key
    stream: Stream | None = None
    first: bytes = b""
    body: bytes = b""
    whole: bool = True
    usage: ir.Usage | None = None
    credential: Credential = NO_CREDENTIAL  # that it was asked with
    in_flight: Number | None = None  # where it counts, until it is over
    unjudged: Unjudged | None = None  # what is too large for that
    opaque: bool = False  # flows unread, under its own content type
    edits: Mapping[str, int] = NO_EDITS  # of a plain answer; see `streams.Stream.edits`

    def forget(self) -> None:
        """See `Call.forget`."""
        if len(self.prepared.outgoing.body) > WORTH_FORGETTING:
            self.prepared = evolve(self.prepared, outgoing=evolve(self.prepared.outgoing, body=b""))


async def open_answer(call: Call, pick: Pick, prepared: Prepared, attempt: Attempt, agenda: Agenda) -> Opening:
    """Raises UpstreamError for whatever fails before content; CancelledError as it comes. Closes what it gives up."""
    began = agenda.now() if call.begun is None else call.begun.began
    sending = _Sending()
    watchdog = Watchdog(
        agenda, prepared.outgoing.timeouts, sending.expire, call.abandon, plain=not call.stream, started=began
    )
    opening = None
    try:
        reply = await sending.sent(call, pick, prepared)
        attempt.status = reply.status
        headers = _clean_headers(call, reply.headers)
        attempt.upstream_request_id = upstream_id(headers)
        opening = Opening(pick, prepared, reply, watchdog, attempt, headers)
        if reply.status not in SUCCESS:
            await _refused(call, opening)
        if call.framed and content_type_of(reply.headers) != "application/json":
            await _first_content(call, opening)
        elif prepared.operation is not None and _is_opaque(call, prepared.operation, reply.headers):
            await _first_bytes(call, opening)
        else:
            await _whole_answer(call, opening)
    except BaseException as exc:
        watchdog.cancel()
        sending.close()
        if opening is not None and opening.stream is not None:
            attempt.usage = opening.stream.usage  # told, and maybe billed
        if isinstance(exc, UpstreamError):
            exc.message = call.clean(exc.message)
        raise
    finally:
        call.upstream_wait += agenda.now() - began
    attempt.ttfb_ms = call.elapsed_ms() - attempt.started_ms
    return opening


def upstream_id(headers: Mapping[str, str]) -> str | None:
    for name in UPSTREAM_IDS:
        if name in headers:
            return headers[name][:128]
    return None


def _clean_headers(call: Call, headers: Mapping[str, str]) -> Mapping[str, str]:
    """A provider may repeat a key in any header, its request id included: such a one goes no further."""
    text = "\n".join(headers.values())
    if not (call.byok and _repeats_key(call, text)) and not call.snapshot.scrubber.knows(text):
        return headers
    return {name: value for name, value in headers.items() if not _repeats_key(call, value)}


def _repeats_key(call: Call, text: str) -> bool:
    if call.snapshot.scrubber.knows(text):
        return True
    return bool(call.byok) and any(key.reveal() in text for key in call.byok.values())


class _Sending:
    """The way up to an answer's head, and the answer from there on, under the watchdog's one clock: the first event's
    deadline covers the head, since a head without one is no answer."""

    __slots__ = ("_expired", "_reply", "_task")

    def __init__(self) -> None:
        self._reply: Reply | None = None
        self._task: asyncio.Task[Any] | None = None
        self._expired = False

    async def sent(self, call: Call, pick: Pick, prepared: Prepared) -> Reply:
        task = self._task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        call.phase = "connect"
        try:
            begun, call.begun = call.begun, None
            if begun is not None:
                self._reply = await begun.answer(prepared.outgoing)
            else:
                self._reply = await call.snapshot.upstreams[pick.candidate.provider].send(prepared.outgoing)
        except asyncio.CancelledError as exc:
            if self._expired and task.uncancel() <= cancelling:
                raise UpstreamTimeout("The provider did not answer in time.") from exc
            raise
        finally:
            self._task = None
            call.phase = "first_byte"
        return self._reply

    def expire(self, message: str) -> None:
        if self._reply is not None:
            self._reply.expire(message)
        elif self._task is not None:
            self._expired = True
            self._task.cancel()

    def close(self) -> None:
        if self._reply is not None:
            self._reply.close()


# -- the head ----------------------------------------------------------------------------------------------------


async def _refused(call: Call, opening: Opening) -> NoReturn:
    """Raises what a status other than success stands for. A success is judged by its body, not by its content type."""
    status = opening.reply.status
    if status < 400:
        raise UpstreamBroken("The provider answered without an answer.", detail=f"status {status}")
    raise await _failure(call, opening)


async def _failure(call: Call, opening: Opening) -> UpstreamError:
    reply, prepared = opening.reply, opening.prepared
    try:
        body, whole = await read_up_to(ERROR_LIMIT, reply)
    except UpstreamBroken:  # cut short: the status has been said all the same
        body, whole = b"", False
    reply.close()
    dialect = prepared.dialect
    clean, reading = False, Reading(own=False)
    if whole:
        try:
            document = json_text.read(body)
            reading = dialect.read_error(document)
            clean = bool(reading.message) and _is_clean(call, body, document)
        except ValueError:
            reading = Reading(own=False)
    if not clean:
        reading = evolve(reading, message="", param=None)
    passes = clean and reading.own
    foreign = Foreign(reply.status, body if passes else b"", opening.headers, dialect.speaks if clean else "")
    wait = retry_after(reply.headers, time.time(), limited=reply.status == 429)
    return failures.of_status(reply.status, reading, foreign, byok=prepared.byok, retry_after=wait)


def _is_clean(call: Call, body: bytes, document: Any) -> bool:
    """No secret of ours or of the caller's, and no internal host, whatever of it is escaped."""
    text = body + json_text.write(document) if b"\\" in body else body
    return _holds_no_key(call, text) and not any(host.encode() in text for host in call.snapshot.hosts)


def _holds_no_key(call: Call, data: bytes) -> bool:
    if call.snapshot.scrubber.holds_secret(data):
        return False
    return not any(key.reveal().encode() in data for key in call.byok.values())


# -- a stream ----------------------------------------------------------------------------------------------------


async def _first_content(call: Call, opening: Opening) -> None:
    """Reads until the first content-bearing event; what came before it is held inside the stream."""
    reply, watchdog = opening.reply, opening.watchdog
    stream = make_stream(opening.prepared, call.dialect, call.voice(), call)
    chunk = await reply.chunk()
    if chunk.lstrip()[:1] in NO_STREAM and opening.prepared.dialect.framing == "sse":
        await _misnamed(call, opening, chunk)
        return
    opening.stream = stream
    while True:
        watchdog.touch(len(chunk))
        if not chunk:
            opening.first = stream.close()
            stream.committed = True
        else:
            opening.first = stream.feed(chunk)
        if stream.committed:
            break
        chunk = await reply.chunk()
    watchdog.commit()


async def _misnamed(call: Call, opening: Opening, begun: bytes) -> None:
    """The body is judged by its content, whatever the content type says."""
    if begun.lstrip().startswith(b"<"):
        raise UpstreamBroken("The provider answered with a page, not with a stream.")
    rest, whole = await read_up_to(TRANSLATED_LIMIT, opening.reply)
    _settle_whole(call, opening, begun + rest, whole=whole)


def make_stream(prepared: Prepared, spoken: Dialect, voice: Voice, secrets: Secrets) -> Stream:
    """For a client of that dialect."""
    dialect, byok = prepared.dialect, prepared.byok
    if prepared.native and isinstance(dialect, Dialect):
        strip = prepared.asked_usage
        return Passthrough(dialect, voice, strip_usage=strip, byok=byok, clean=secrets.clean, keys=secrets.keys)
    return Translation(dialect, spoken, voice, byok=byok, clean=secrets.clean)


# -- what is not read --------------------------------------------------------------------------------------------


def _is_opaque(call: Call, operation: Operation, headers: Mapping[str, str]) -> bool:
    """Sound, text, subtitles, and events of an operation whose streams nobody reads."""
    if not (operation.opaque or call.stream):
        return False
    kind = content_type_of(headers)
    return kind != "application/json" and not kind.endswith("+json")


async def _first_bytes(call: Call, opening: Opening) -> None:
    """All that can be told of them is that they are no page, and not nothing: only a text may be empty, as what was
    heard in silence."""
    call.phase = "plain"
    kind = content_type_of(opening.reply.headers)
    data = await opening.reply.chunk()
    if kind == "text/html" or data.lstrip()[:14].lower().startswith(PAGES):
        raise UpstreamBroken("The provider answered with a page.")
    if not data and not kind.startswith("text/"):
        raise UpstreamBroken("The provider answered with nothing.")
    opening.body, opening.whole, opening.opaque = data, False, True
    opening.watchdog.touch()
    opening.watchdog.commit()


# -- a plain answer ----------------------------------------------------------------------------------------------


async def _whole_answer(call: Call, opening: Opening) -> None:
    call.phase = "plain"
    native = opening.prepared.native and not call.framed
    mended = opening.prepared.mend is not None
    limit = MENDED_LIMIT if mended else PLAIN_LIMIT if native else TRANSLATED_LIMIT
    if opening.prepared.outgoing.timeouts.min_rate:
        body, whole = await _watched(opening, limit)
    else:
        body, whole = await read_up_to(limit, opening.reply)
    if not whole and native and not mended:
        if body.lstrip()[:1] != b"{":
            raise UpstreamBroken("The provider's answer is large and no JSON object.")
        opening.unjudged, opening.whole = Unjudged(call.keys()), False  # it flows, and a cut will show as one
        opening.body = opening.unjudged.feed(body)
        return
    _settle_whole(call, opening, body, whole=whole)


async def _watched(opening: Opening, limit: int) -> tuple[bytes, bool]:
    """As `Reply.read`, while the watchdog sees how much came."""
    parts: list[bytes] = []
    size = 0
    while size <= limit:
        data = await opening.reply.chunk()
        if not data:
            return b"".join(parts), True
        opening.watchdog.touch(len(data))
        parts.append(data)
        size += len(data)
    return b"".join(parts), False


def _settle_whole(call: Call, opening: Opening, body: bytes, *, whole: bool) -> None:
    """Judges a whole JSON answer and puts it into the form that the client asked for."""
    if not whole:
        raise UpstreamBroken("The provider's answer is too large.")
    prepared, dialect = opening.prepared, opening.prepared.dialect
    document = _parsed(body)
    if prepared.operation is not None:
        _settle_operation(call, opening, prepared.operation, document, body)
        return
    opening.usage = dialect.check_answer(document)
    if call.stream:
        events = events_of(dialect.codec().decode_answer(document))
        encoder = call.dialect.codec().stream_encoder(call.voice())
        opening.stream = None
        opening.body = encoder.feed(events)
        return
    if not prepared.native:
        answer = dialect.codec().decode_answer(document)
        opening.body = json_text.write(call.dialect.codec().encode_answer(answer, call.voice()))
        return
    mend = dialect.mend_answer if isinstance(dialect, Dialect) else None
    opening.body = body if mend is None else mend(body, call.request_id)


def _settle_operation(call: Call, opening: Opening, operation: Operation, document: Any, body: bytes) -> None:
    """Nothing is translated: what came leaves, less what has to be mended; for a stream as its one event."""
    opening.usage = operation.check_answer(document)
    mend = opening.prepared.mend
    opening.body = body
    if mend is not None and (mended := mend(document)) is not None:
        opening.body = json_text.write(mended)
        opening.edits = VECTORS_ENCODED
    if call.framed:
        opening.body = sse.encode(json_text.write(document)) + call.dialect.terminator


def _parsed(body: bytes) -> Any:
    try:
        return json_text.read(body)
    except ValueError as exc:
        start = body.lstrip()[:1]
        what = "a page" if start == b"<" else "broken JSON" if body.strip() else "nothing"
        raise UpstreamBroken(f"The provider answered with {what}.", detail=str(exc)[:200]) from exc
