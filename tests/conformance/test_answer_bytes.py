"""Where client and provider speak the same dialect, the provider's bytes reach the client, however they were cut.

Three edits are allowed, and each is checked to the byte: the usage chunk that only the gateway asked for goes, a
terminator missing behind a finish reason comes, what stands behind the end goes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Start
from .recordings import NATIVE as SPOKEN
from .recordings import Recording, data_of, frames, named, parametrized
from .serving import Replay, Running, post, posted, provider, replaying

DONE = b"data: [DONE]\n\n"
ENDS = ("message_stop", "response.completed", "response.incomplete")
# Streams of which a client gets other bytes for a reason.
FAILS = "oc-openrouter-tx-comments-then-cut-multibyte"  # ends without a finish reason: told as an error
LIMITED = "resp-pr-stream-rate-limited-1"  # fails before its first content: an error with a status
NATIVE = "cfw-tx-native-stream-documented"  # Workers AI's own words: mended into chat's, see test_workers_ai


def same_dialect(recording: Recording) -> bool:
    return recording.good and recording.name not in (FAILS, LIMITED, NATIVE)


def expected(recording: Recording, *, asked: bool) -> bytes:
    """The recorded bytes after the edits that are due."""
    if not recording.stream:
        return recording.body
    kept: list[bytes] = []
    finished = ended = False
    for frame in frames(recording.body):
        data = data_of(frame).strip()
        if ended:  # OpenRouter says goodbye on Responses, too
            kept += [frame] if (recording.surface, data) == ("responses", b"[DONE]") else []
            break
        event = json.loads(data) if data.startswith(b"{") else {}
        choices = event.get("choices")
        if choices == [] and event.get("usage") and not asked and recording.surface == "chat":
            continue
        finished = finished or any(choice.get("finish_reason") for choice in choices or ())
        kept.append(frame)
        ended = data == b"[DONE]" or event.get("type") in ENDS
    if finished and not ended:
        kept.append(DONE)
    return b"".join(kept)


def body_for(recording: Recording, model: str, *, asked: bool | None) -> tuple[bytes, bool]:
    """A request for the recording, and whether it asks for the usage chunk. `asked` None: as it was recorded."""
    body = recording.asked(model=model)
    if recording.surface == "chat" and recording.stream and asked is not None:
        body.pop("stream_options", None)
        if asked:
            body["stream_options"] = {"include_usage": True}
    options = body.get("stream_options") or {}
    return json.dumps(body).encode(), options.get("include_usage") is True


def check(gateway: Running, recording: Recording, split: int, asked: bool | None) -> None:
    tail = f"-{split}" if split else ""
    model = f"{recording.provider}{tail}/{recording.name}"
    body, asks = body_for(recording, model, asked=asked)
    answer = post(gateway.url, recording.surface, body)
    assert answer.body == expected(recording, asked=asks or recording.provider == "mistral")
    assert (answer.status, answer.cut) == (recording.status, False)
    kind, recorded = (text.partition(";")[0] for text in (answer.headers["content-type"], _content_type(recording)))
    assert kind == recorded
    assert answer.headers["x-nyuro-model"] == model
    assert answer.headers["x-nyuro-provider"] == recording.provider + tail


def _content_type(recording: Recording) -> str:
    return recording.headers["content-type"]


@parametrized(same_dialect, among=SPOKEN)
def test_an_answer_passes_byte_for_byte(gateway: Running, recording: Recording) -> None:
    check(gateway, recording, 0, None)


@parametrized(lambda recording: same_dialect(recording) and len(recording.body) < 2_500, among=SPOKEN)
def test_an_answer_that_comes_byte_by_byte_passes_as_one_that_comes_whole(
    gateway: Running, recording: Recording
) -> None:
    check(gateway, recording, 1, None)


@parametrized(lambda recording: same_dialect(recording) and len(recording.body) >= 2_500, quick=(), among=SPOKEN)
def test_a_long_answer_that_comes_byte_by_byte_passes_as_well(gateway: Running, recording: Recording) -> None:
    check(gateway, recording, 1, None)


@parametrized(same_dialect, among=SPOKEN)
def test_an_answer_cut_into_pieces_of_seven_bytes_passes_as_one_that_comes_whole(
    gateway: Running, recording: Recording
) -> None:
    check(gateway, recording, 7, None)


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "unasked"])
@pytest.mark.parametrize("split", [0, 7], ids=["whole", "split"])
@parametrized(lambda recording: same_dialect(recording) and recording.stream and recording.surface == "chat")
def test_a_client_gets_the_usage_chunk_if_it_asks_for_it_and_only_then(
    gateway: Running, recording: Recording, split: int, asked: bool
) -> None:
    check(gateway, recording, split, asked)


@pytest.mark.parametrize("split", [0, 1, 7])
@parametrized(lambda recording: recording.name == FAILS)
def test_a_stream_that_ends_without_a_finish_reason_ends_in_an_error_and_no_terminator(
    gateway: Running, recording: Recording, split: int
) -> None:
    tail = f"-{split}" if split else ""
    answer = post(gateway.url, "chat", json.dumps(recording.asked(model=f"chat{tail}/{recording.name}")).encode())
    assert answer.status == 200
    assert answer.body.startswith(recording.body)
    (told,) = frames(answer.body.removeprefix(recording.body))
    assert json.loads(data_of(told))["error"]["code"] == "bad_upstream_response"
    assert DONE.strip() not in answer.body


FRAMED = ("oai-oc-streams-tool-call", "ant-tl-tools-streaming", "oai-pa-stop-settings-openai", "ant-pa-memory-tool")


@pytest.mark.parametrize("framing", ["close", "length", "chunked"])
@parametrized(lambda recording: recording.name in FRAMED)
def test_it_is_no_matter_how_the_provider_frames_its_body(
    start: Start, replay: Replay, recording: Recording, framing: str
) -> None:
    dialect = {"chat": "openai-chat", "messages": "anthropic"}[recording.surface]
    gateway = start(provider("only", dialect, replay.case(f"{recording.name};split=9;framing={framing}")))
    body, asks = body_for(recording, "only/m", asked=None)
    answer = post(gateway.url, recording.surface, body)
    assert (answer.status, answer.cut, answer.body) == (200, False, expected(recording, asked=asks))


@pytest.mark.parametrize("surface", ["chat", "messages"])
def test_a_stream_framed_by_its_close_that_ends_too_early_is_an_error(
    start: Start, replay: Replay, surface: str
) -> None:
    """Nothing in HTTP tells that it was cut, and an SDK would take what came for all."""
    name = {"chat": "oai-oc-streams-tool-call", "messages": "ant-tl-tools-streaming"}[surface]
    whole = b"".join(frames(named(name).body)[:5])
    dialect = {"chat": "openai-chat", "messages": "anthropic"}[surface]
    gateway = start(provider("only", dialect, replay.case(f"{name};framing=close;cut={len(whole)}")))
    body, _ = body_for(named(name), "only/m", asked=True)
    answer = post(gateway.url, surface, body)
    assert answer.body.startswith(whole)
    (told,) = frames(answer.body.removeprefix(whole))
    assert json.loads(data_of(told))["error"]["message"]


# -- the edits, where no recording has what they are for --------------------------------------------------------------

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":%b}]}\n\n'
SAID, FINISHED = CHUNK % b"null", CHUNK % b'"stop"'
TOKENS = b'"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}'
USAGE = b'data: {"choices":[],%b}\n\n' % TOKENS
OPENED = b"".join(
    b"event: %b\ndata: %b\n\n" % (json.loads(data)["type"].encode(), data)
    for data in (
        b'{"type":"message_start","message":{"id":"msg_1","model":"m","usage":{"input_tokens":3,"output_tokens":1}}}',
        b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}',
        b'{"type":"content_block_stop","index":0}',
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}',
    )
)
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
WHOLE, COUNTED = SAID + FINISHED, SAID + FINISHED[:-3] + b"," + TOKENS + b"}\n\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
# surface, what the provider sends, what the client gets, the metric's word for the edit
EDITS = {
    "a chunk behind [DONE] is dropped": ("chat", WHOLE + DONE + SAID, WHOLE + DONE, "surplus_dropped"),
    "a second [DONE] is dropped": ("chat", WHOLE + DONE * 2, WHOLE + DONE, "surplus_dropped"),
    "a ping behind message_stop is dropped": ("messages", OPENED + STOP + PING, OPENED + STOP, "surplus_dropped"),
    "a missing [DONE] is added": ("chat", WHOLE, WHOLE + DONE, "terminator_added"),
    "a missing message_stop is added": ("messages", OPENED, OPENED + STOP, "terminator_added"),
    "a missing [DONE] comes behind a frame without its blank line": (
        "chat", WHOLE[:-2], WHOLE + DONE, "terminator_added"
    ),
    "a [DONE] without its blank line stays as it is": ("chat", WHOLE + DONE[:-1], WHOLE + DONE[:-1], ""),
    "a [DONE] without a line end stays as it is": ("chat", WHOLE + DONE[:-2], WHOLE + DONE[:-2], ""),
    "a usage chunk only the gateway asked for goes": ("chat", WHOLE + USAGE + DONE, WHOLE + DONE, "usage_removed"),
    "usage beside choices stays": ("chat", COUNTED + DONE, COUNTED + DONE, ""),
}  # fmt: skip


@pytest.mark.parametrize(
    "split",
    [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(7, marks=pytest.mark.slow)],
    ids=["whole", "by one", "by seven"],
)
@pytest.mark.parametrize(("surface", "sent", "expected", "edit"), EDITS.values(), ids=EDITS)
def test_an_edit(
    start: Start, tmp_path: Path, surface: str, sent: bytes, expected: bytes, edit: str, split: int
) -> None:
    with replaying(tmp_path, split, made=sent) as replay:
        dialect = {"chat": "openai-chat", "messages": "anthropic"}[surface]
        gateway = start(provider("only", dialect, replay.case("made")))
        body = {"model": "only/m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "stream": True}
        with posted(gateway.url, surface, json.dumps(body).encode()) as answer:
            assert (answer.status, answer.cut, answer.body) == (200, False, expected)
            assert gateway.edits() == ({edit: 1} if edit else {})


def test_a_client_that_hangs_up_behind_the_end_has_had_its_answer(start: Start, tmp_path: Path) -> None:
    """The provider ends its body a moment after its last event, as most do; the client does not wait for that."""
    with replaying(tmp_path, made=SAID + FINISHED + DONE) as replay:
        gateway = start(provider("only", "openai-chat", replay.case("made;delay=100")))
        body = {"model": "only/m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        assert post(gateway.url, "chat", json.dumps(body).encode()).body == SAID + FINISHED + DONE
        (row,) = gateway.rows()
        assert (row["status"], row["outcome"], row["attempts"][0]["outcome"]) == (200, "ok", "ok")
