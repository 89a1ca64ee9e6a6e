"""`/v1/responses`: native where the provider has it, bridged where it has not, and a clear word where neither does."""

from __future__ import annotations

from typing import Any

import openai
import orjson
import pytest
from gateway import Start, chain, provider
from playbook import CHAT, MESSAGES
from upstream import Script, ScriptedUpstream, Seen, plain, streamed

PATH = "/v1/responses"
USAGE = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
MESSAGE = {
    "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
    "content": [{"type": "output_text", "text": "hello", "annotations": []}],
}  # fmt: skip
RESPONSE: dict[str, Any] = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "native-1",
    "output": [MESSAGE], "usage": USAGE, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
}  # fmt: skip
BOTH = '"openai-chat", "openai-responses"'


def event(kind: str, number: int, **members: Any) -> bytes:
    data = orjson.dumps({"type": kind, "sequence_number": number, **members})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


STREAM = [
    event("response.created", 0, response={**RESPONSE, "status": "in_progress", "output": [], "usage": None}),
    event("response.output_item.added", 1, output_index=0, item={**MESSAGE, "content": []}),
    event(
        "response.content_part.added", 2, output_index=0, content_index=0, item_id="msg_1",
        part={"type": "output_text", "text": "", "annotations": []},
    ),
    event("response.output_text.delta", 3, output_index=0, content_index=0, item_id="msg_1", delta="hello"),
    event("response.output_item.done", 4, output_index=0, item=MESSAGE),
    event("response.completed", 5, response=RESPONSE),
]  # fmt: skip


def speaking(table: str, dialects: str = BOTH) -> str:
    """The table of a provider that speaks both of OpenAI's dialects, Chat first."""
    return table.replace('dialects = ["openai-chat"]', f"dialects = [{dialects}]")


def by_path(seen: Seen) -> Script:
    if seen.path.endswith("/responses"):
        return streamed(STREAM) if seen.json.get("stream") else plain(RESPONSE)
    return streamed(CHAT.stream("hello")) if seen.json.get("stream") else plain(CHAT.answer("hello"))


async def test_where_the_provider_has_it_bytes_pass(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.answers(by_path)
    gw = await start(speaking(provider("first", upstream)))
    body = {"model": "first", "input": "Say hello.", "previous_response_id": "resp_0", "store": True}
    whole = await gw.post(PATH, body)
    assert whole.body == orjson.dumps(RESPONSE)
    flowing = await gw.post(PATH, {**body, "stream": True})
    assert flowing.body == b"".join(STREAM)
    sent = await upstream.asked(2)
    assert sent.path == "/v1/responses"
    assert sent.json == {**body, "stream": True, "model": "native-of-first"}
    for row in await gw.rows(2):
        assert (row["surface"], row["usage"]["input"], row["usage"]["output"]) == ("responses", 7, 2)


@pytest.mark.parametrize("tongue", [CHAT, MESSAGES], ids=["chat", "messages"])
async def test_clients_of_other_dialects_get_the_first_that_the_provider_speaks(
    start: Start, upstream: ScriptedUpstream, tongue: Any
) -> None:
    upstream.answers(by_path)
    gw = await start(speaking(provider("first", upstream)))
    answer = await gw.ask(tongue)
    assert tongue.read_text(answer.json) == "hello"
    assert (await upstream.asked()).path == "/v1/chat/completions"


@pytest.mark.parametrize("tongue", [CHAT, MESSAGES], ids=["chat", "messages"])
async def test_a_provider_of_this_dialect_alone_serves_them_all(
    start: Start, upstream: ScriptedUpstream, tongue: Any
) -> None:
    upstream.answers(by_path)
    gw = await start(speaking(provider("first", upstream), '"openai-responses"'))
    assert tongue.read_text((await gw.ask(tongue)).json) == "hello"
    assert tongue.read_stream((await gw.ask(tongue, stream=True)).body) == "hello"
    sent = await upstream.asked(2)
    assert (sent.path, sent.json["store"]) == ("/v1/responses", False)


@pytest.mark.parametrize("tongue", [CHAT, MESSAGES], ids=["chat", "messages"])
async def test_the_sdk_reads_a_bridge(start: Start, upstream: ScriptedUpstream, tongue: Any) -> None:
    upstream.plays(plain(tongue.answer("hello")), streamed(tongue.stream("hel", "lo")))
    gw = await start(provider("first", upstream, tongue))
    async with openai.AsyncOpenAI(base_url=f"{gw.base}/v1", api_key="none", max_retries=0) as client:
        whole = await client.responses.create(model="first", input="Say hello.", instructions="Be brief.")
        assert (whole.output_text, whole.status, whole.instructions, whole.to_dict()["store"]) == (
            "hello", "completed", "Be brief.", False,
        )  # fmt: skip
        async with client.responses.stream(model="first", input="Say hello.") as stream:
            deltas = [item.delta async for item in stream if item.type == "response.output_text.delta"]
            final = await stream.get_final_response()
    assert (deltas, final.output_text) == (["hel", "lo"], "hello")
    assert whole.usage is not None
    assert whole.usage.input_tokens == 7


async def test_what_needs_a_memory_goes_to_who_has_one(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    second.answers(by_path)
    gw = await start(provider("first", upstream) + speaking(provider("second", second)) + chain("first", "second"))
    answer = await gw.post(PATH, {"model": "profile:chain", "input": "And?", "previous_response_id": "resp_0"})
    assert answer.body == orjson.dumps(RESPONSE)
    assert not upstream.seen
    refused = await gw.post(PATH, {"model": "first", "input": "And?", "previous_response_id": "resp_0"})
    assert refused.status == 400
    assert refused.json["error"]["param"] == "previous_response_id"
    assert "send the earlier turns themselves in `input`" in refused.json["error"]["message"]


async def test_the_provider_breaks_off_and_the_client_is_told_in_its_dialect(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streamed([CHAT.start, CHAT.text("hel")]), streamed(STREAM[:4]))
    gw = await start(provider("first", upstream))
    bridged = await gw.post(PATH, {"model": "first", "input": "Say hello.", "stream": True})
    types = [orjson.loads(line[6:])["type"] for line in bridged.body.splitlines() if line.startswith(b"data: ")]
    assert types[-2:] == ["error", "response.failed"]
    async with openai.AsyncOpenAI(base_url=f"{gw.base}/v1", api_key="none", max_retries=0) as client:
        upstream.plays(streamed([CHAT.start, CHAT.text("hel")]))
        stream = await client.responses.create(model="first", input="Say hello.", stream=True)
        with pytest.raises(openai.APIError, match="ended before the answer did"):
            [event.type async for event in stream]


async def test_thinking_of_claude_comes_back_to_claude_and_goes_to_nobody_else(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    upstream.answers(lambda _: plain({**MESSAGES.answer("hello"), "content": [thought]}))
    second.answers(by_path)
    gw = await start(provider("first", upstream, MESSAGES) + speaking(provider("second", second)))
    first = await gw.post(PATH, {"model": "first", "input": "Say hello."})
    turns = [{"role": "user", "content": "Say hello."}, *first.json["output"], {"role": "user", "content": "And?"}]
    await gw.post(PATH, {"model": "first", "input": turns})
    assert (await upstream.asked(2)).json["messages"][1] == {"role": "assistant", "content": [thought]}
    await gw.post(PATH, {"model": "second", "input": turns})
    assert (await second.asked()).json["input"] == [turns[0], turns[-1]]
