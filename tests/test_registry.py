"""What every dialect owes, whichever it is: a new one joins the registry and has to pass here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import attrs
import orjson
import pytest
from attrs import evolve
from each import each
from gateway import Start
from playbook import TONGUES, Tongue
from upstream import ScriptedUpstream, head, plain
from upstream import streamed as scripted

from proxy import errors, ir
from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.dialects.dialect import Dialect, Voice
from proxy.errors import GatewayError
from proxy.ir import Sight
from proxy.routing.table import ENDPOINTS
from proxy.server.endpoints import SURFACES
from proxy.server.respond import STATUS, status_of
from proxy.streams import Passthrough, events_of
from proxy.wire import ndjson, sse
from proxy.wire.sse import Frame

VOICE = Voice("req_0", "some-model", created=1_700_000_000, include_usage=True)
NDJSON = head(200, "application/x-ndjson", Transfer_Encoding="chunked")
KEY = "canary-0123456789"
SAID = "Bonjour, « été » — 你好 👋"
USAGE = ir.Usage(input=11, output=7)
ANSWER = ir.Answer("id-1", "some-model", (ir.Choice((ir.Text(SAID),), "end"),), USAGE)
CALL = ir.ToolCall("call_1", "weather", '{"city":"Graz"}')
CALLING = ir.Answer("id-2", "some-model", (ir.Choice((CALL,), "tool_call"),), USAGE)
ANSWERS = {"text": ANSWER, "a tool call": CALLING}

# What the SDKs of each surface turn into classes.
OPENAI_TYPES = {
    "invalid_request_error", "permission_error", "rate_limit_error", "insufficient_quota", "server_error",
}  # fmt: skip
ANTHROPIC_TYPES = {
    "invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error",
    "request_too_large", "rate_limit_error", "timeout_error", "overloaded_error", "api_error",
}  # fmt: skip

each_dialect = each("dialect", DIALECTS.values(), ids=DIALECTS)
each_error = each("kind", STATUS, ids=lambda kind: kind.__name__)


def frames(dialect: Dialect, raw: bytes) -> list[Frame]:
    if dialect.framing == "sse":
        framer = sse.Framer()
        return framer.feed(raw) + framer.close()
    lines = ndjson.Framer()
    return [Frame(line) for line in lines.feed(raw) + lines.close()]


def sights(dialect: Dialect, raw: bytes) -> list[Sight]:
    tap = dialect.tap()
    return [tap.look(frame) for frame in frames(dialect, raw)]


def streamed(dialect: Dialect, answer: ir.Answer) -> bytes:
    return dialect.codec().stream_encoder(VOICE).feed(events_of(answer))


def text_of(events: Iterable[ir.StreamEvent]) -> str:
    """All that was said: text, and the names and arguments of calls."""
    said = []
    for event in events:
        match event:
            case ir.TextDelta(text=text) | ir.ArgumentsDelta(text=text) | ir.PartStart(shell=ir.Text(text=text)):
                said.append(text)
            case ir.PartStart(shell=ir.ToolCall(name=name, arguments=arguments)):
                said += [name, arguments]
    return "".join(said)


def path_of(dialect: Dialect, endpoint: str, stream: bool) -> str | None:
    try:
        return dialect.path(endpoint, "some/model", stream)
    except errors.Unsupported:
        return None


# -- the record --------------------------------------------------------------------------------------------------


def test_the_registry_names_each_dialect_as_it_names_itself() -> None:
    assert {name: dialect.name for name, dialect in DIALECTS.items()} == {name: name for name in DIALECTS}


@each_dialect
def test_the_record_is_complete(dialect: Dialect) -> None:
    """Only what a near-compatible provider needs besides has a default, and may be absent."""
    for column in attrs.fields(Dialect):
        if column.default is attrs.NOTHING:
            assert getattr(dialect, column.name) is not None, column.name
    assert dialect.speaks in DIALECTS
    assert DIALECTS[dialect.speaks].speaks == dialect.speaks, "what it speaks is a dialect of its own"
    if dialect.name in {surface.dialect for surface in SURFACES.values()}:
        assert {"model", "stream"} <= dialect.reads


@each_dialect
def test_probes_are_bytes_that_can_be_looked_for(dialect: Dialect) -> None:
    assert dialect.probes
    assert all(dialect.probes), "an empty one would hit every frame"


@each_dialect
def test_paths_stand_behind_a_base_url(dialect: Dialect) -> None:
    operations = ("chat", *dialect.operations)
    for operation in (*operations, *ENDPOINTS):
        for stream in (False, True):
            path = path_of(dialect, operation, stream)
            assert path is not None or operation not in operations
            assert path is None or re.fullmatch(r"(/[\w.:%-]+)+", path)


@each_dialect
def test_the_key_stands_once_in_the_credential_and_nothing_else_does(dialect: Dialect) -> None:
    headers = dialect.credential(KEY)
    assert [value for _, value in headers if KEY in value] in ([KEY], [f"Bearer {KEY}"])
    assert len(headers) == 1
    assert not any(KEY in name for name, _ in headers)


@each_dialect
def test_what_is_always_sent_is_no_credential(dialect: Dialect) -> None:
    credential = {name.lower() for name, _ in dialect.credential(KEY)}
    assert credential.isdisjoint(name.lower() for name, _ in dialect.fixed_headers)


# -- errors ------------------------------------------------------------------------------------------------------


@each_dialect
@each_error
def test_our_own_errors_have_the_shape_that_the_sdks_read(dialect: Dialect, kind: type[GatewayError]) -> None:
    error = kind("What was wrong, and what to do.", param="messages[2].content")
    status = status_of(error, dialect)
    body = orjson.loads(orjson.dumps(dialect.write_error(error, status, "req_0")))
    match dialect.speaks:
        case "openai-chat" | "openai-responses":
            assert set(body) == {"error"}
            assert set(body["error"]) == {"message", "type", "param", "code"}
            assert body["error"]["type"] in OPENAI_TYPES
            assert (body["error"]["code"], body["error"]["param"]) == (kind.code, "messages[2].content")
        case "anthropic":
            assert (body["type"], body["request_id"]) == ("error", "req_0")
            assert body["error"]["type"] in ANTHROPIC_TYPES
            assert body["error"]["details"] == {"error_code": kind.code, "param": "messages[2].content"}
        case other:
            pytest.fail(f"this test does not know how an error of {other} looks")
    assert body["error"]["message"] == "What was wrong, and what to do."


@each_dialect
@each_error
def test_a_gateway_behind_this_one_is_understood(dialect: Dialect, kind: type[GatewayError]) -> None:
    written = dialect.write_error(kind("No."), STATUS[kind], "req_0")
    reading = DIALECTS[dialect.speaks].read_error(orjson.loads(orjson.dumps(written)))
    assert reading.own
    assert (reading.message, reading.code) == ("No.", kind.code)


@each_dialect
@each("nonsense", [None, 1, "x", [], {}, {"error": None}, {"error": 3}, {"error": {"message": []}}])
def test_nobodys_json_is_not_taken_for_an_error_of_the_dialect(dialect: Dialect, nonsense: object) -> None:
    assert not dialect.read_error(nonsense).own


@each_dialect
@each_error
def test_a_failure_inside_a_stream_is_an_error_to_its_own_tap(dialect: Dialect, kind: type[GatewayError]) -> None:
    told = dialect.codec().stream_encoder(VOICE).fail(kind("It broke off."))
    tap = dialect.tap()
    assert Sight.ERROR in [tap.look(frame) for frame in frames(dialect, told)]
    assert tap.error is not None
    assert tap.error.message == "It broke off."
    assert any(probe in told for probe in dialect.probes)


@each_dialect
def test_a_failure_after_half_an_answer_is_an_error_too(dialect: Dialect) -> None:
    encoder = dialect.codec().stream_encoder(VOICE)
    half = encoder.feed([ir.Start("id", "some-model"), ir.PartStart(0, ir.Text("")), ir.TextDelta(0, "Bon")])
    told = encoder.fail(errors.UpstreamBroken("It broke off."))
    seen = sights(dialect, half + told)
    assert Sight.CONTENT in seen
    assert Sight.ERROR in seen
    assert Sight.FINISH not in seen, "a reader must not take half an answer for a whole one"


# -- streams and answers -----------------------------------------------------------------------------------------


@each_dialect
def test_the_terminator_ends_a_stream_for_its_own_tap(dialect: Dialect) -> None:
    """A format whose terminal event holds the answer has none that could be added."""
    if dialect.terminator:
        assert sights(dialect, dialect.terminator) == [Sight.END]
        assert any(probe in dialect.terminator for probe in dialect.probes)
        assert streamed(dialect, ANSWER).endswith(dialect.terminator)


@each_dialect
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_stream_of_our_own_is_read_by_its_own_decoder_and_tap(dialect: Dialect, answer: ir.Answer) -> None:
    raw = streamed(dialect, answer)
    decoder, tap = dialect.codec().stream_decoder(), dialect.tap()
    events = [event for frame in frames(dialect, raw) for event in decoder.feed(frame)] + decoder.close()
    seen = [tap.look(frame) for frame in frames(dialect, raw)]
    assert text_of(events) == text_of(events_of(answer))
    assert Sight.CONTENT in seen
    assert Sight.ERROR not in seen
    assert (seen[-1], tap.stop) == (Sight.END, answer.choices[0].stop)
    assert tap.usage is not None
    assert (tap.usage.input_total, tap.usage.output) == (11, 7)


@each_dialect
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_no_frame_that_matters_escapes_the_probes(dialect: Dialect, answer: ir.Answer) -> None:
    """Frames without a probe are not parsed once a stream has begun."""
    tap = dialect.tap()
    for _, raw in sse.split_frames(streamed(dialect, answer)):
        for frame in frames(dialect, raw):
            if tap.look(frame) in (Sight.FINISH, Sight.USAGE, Sight.END, Sight.ERROR):
                assert any(probe in raw for probe in dialect.probes), raw


@each_dialect
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_stream_of_our_own_passes_through_unchanged(dialect: Dialect, answer: ir.Answer) -> None:
    raw = streamed(dialect, answer)
    passing = Passthrough(dialect, VOICE)
    assert b"".join(passing.feed(raw[at : at + 7]) for at in range(0, len(raw), 7)) + passing.close() == raw
    assert passing.done
    assert not any(passing.edits.values())


@each_dialect
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_whole_answer_comes_back_as_it_went(dialect: Dialect, answer: ir.Answer) -> None:
    written = orjson.loads(orjson.dumps(dialect.codec().encode_answer(answer, VOICE)))
    usage = dialect.check_answer(written)
    assert usage is not None
    assert (usage.input_total, usage.output) == (11, 7)
    read = dialect.codec().decode_answer(written)
    assert [choice.stop for choice in read.choices] == [choice.stop for choice in answer.choices]
    assert text_of(events_of(read)) == text_of(events_of(answer))


@each_dialect
@pytest.mark.parametrize("nonsense", [None, 1, "x", [], {}, {"error": {"message": "No.", "type": "server_error"}}])
def test_what_is_no_answer_is_never_taken_for_one(dialect: Dialect, nonsense: object) -> None:
    with pytest.raises(errors.UpstreamError):
        dialect.check_answer(nonsense)


@each_dialect
def test_the_shape_of_nonsense_is_a_shape(dialect: Dialect) -> None:
    """Routing looks before anybody has validated."""
    bodies: list[dict[str, Any]] = [
        {},
        {"messages": 3},
        {"messages": [None, 1, {}]},
        {"messages": [{"role": "user", "content": [None, {"type": 3}]}]},
        {"tools": "x", "max_tokens": "y", "n": None},
    ]
    for body in bodies:
        assert isinstance(dialect.read_shape(body), ir.Shape)


def test_a_dialect_of_another_framing_has_a_reader() -> None:
    assert {dialect.framing for dialect in DIALECTS.values()} <= {"sse", "ndjson"}


# -- a new one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
async def test_a_new_one_is_its_module_and_a_line_of_the_registry(
    start: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, tongue: Tongue, stream: bool
) -> None:
    """Nothing else has to know its name: a table may use it, every surface is translated to it, answers come back."""
    monkeypatch.setitem(UPSTREAMS, "toy", evolve(UPSTREAMS["ollama"], name="toy"))
    said = {"model": "m", "message": {"role": "assistant", "content": "Hello."}, "done": True, "done_reason": "stop"}
    line = orjson.dumps({**said, "prompt_eval_count": 3, "eval_count": 2}) + b"\n"
    upstream.plays(scripted([line], stream_head=NDJSON) if stream else plain(line))
    gateway = await start(
        f'[providers.toys]\ndialect = "toy"\nbase_url = "{upstream.root}"\napi_key = "none"\nmodels = ["first"]\n'
    )
    answer = await gateway.ask(tongue, stream=stream)
    assert answer.status == 200, answer.body
    assert (tongue.read_stream(answer.body) if stream else tongue.read_text(answer.json)) == "Hello."
    assert (await upstream.asked()).path == "/api/chat"
