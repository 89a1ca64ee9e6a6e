"""docs/clients.md: each recipe points at the gateway, and what its client sends there is answered as that client needs.

`tests/data/clients.json` holds, by the page's headings, the base URL that the recipe shows and requests as the client
sends them: its headers, its members, its path behind the base URL. They go to a chat provider, so that those of Claude
Code, Codex and their like are translated. The programs on the page are run in test_docs.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from each import each
from gateway import Answer, Running, Start, provider
from pages import PAGES, section
from playbook import CHAT, USAGE, chunk
from upstream import Script, ScriptedUpstream, Seen, plain, streamed

PAGE = PAGES["docs/clients.md"]
CLIENTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "clients.json").read_text())
HEADINGS = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
TABLE = """
[aliases]
claude-auto = "auto"
[auto]
chat = ["first"]
code = ["first"]
"""
REQUESTS = {
    f"{client}, {number}: {request['method']} {request['path']}": (client, request)
    for client, entry in CLIENTS.items()
    for number, request in enumerate(entry["requests"])
}


def answering(seen: Seen) -> Script:
    if seen.path.endswith("/embeddings"):
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}
        return plain({"object": "list", "data": [vector], "model": "m", "usage": {"prompt_tokens": 2}})
    if json.loads(seen.body).get("stream"):
        *said, done = CHAT.stream("Good ", "morning")
        return streamed([*said, chunk(None, usage=USAGE), done])
    return plain(CHAT.answer("Good morning"))


# -- what each kind of answer owes --------------------------------------------------------------------------------


def events(answer: Answer) -> list[dict[str, Any]]:
    data = re.findall(rb"^data: (\{.*)$", answer.body, re.MULTILINE)
    return [json.loads(one) for one in data]


def chat(answer: Answer) -> None:
    assert {"id", "object", "created", "model", "choices", "usage"} <= answer.json.keys()
    (choice,) = answer.json["choices"]
    assert (choice["index"], choice["finish_reason"], choice["message"]["content"]) == (0, "stop", "Good morning")


def chat_stream(answer: Answer) -> None:
    """What the schemas of the strict ones want: an id, an object, a time and a model on every chunk, an index on every
    choice, one reason to stop, and the terminator."""
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.body.endswith(b"data: [DONE]\n\n")
    chunks = events(answer)
    assert all({"id", "object", "created", "model", "choices"} <= chunk.keys() for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert all(choice["index"] == 0 and "finish_reason" in choice for choice in choices)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert CHAT.read_stream(answer.body) == "Good morning"


def message(answer: Answer) -> None:
    assert (answer.json["type"], answer.json["role"], answer.json["stop_reason"]) == (
        "message",
        "assistant",
        "end_turn",
    )
    assert [block["text"] for block in answer.json["content"]] == ["Good morning"]
    assert answer.json["usage"].keys() >= {"input_tokens", "output_tokens"}


def message_stream(answer: Answer) -> None:
    names = re.findall(r"^event: (\w+)$", answer.body.decode(), re.MULTILINE)
    told = events(answer)
    assert names == [event["type"] for event in told]
    assert (names[0], names[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert "".join(event["delta"].get("text", "") for event in told if "delta" in event) == "Good morning"


def response(answer: Answer) -> None:
    assert (answer.json["object"], answer.json["status"]) == ("response", "completed")
    (item,) = answer.json["output"]
    assert item["content"][0]["text"] == "Good morning"


def response_stream(answer: Answer) -> None:
    """Codex waits for `response.completed`, and reads `type` and `response` out of the data."""
    told = events(answer)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    kinds = [event["type"] for event in told]
    assert (kinds[0], kinds[-1], kinds.count("response.completed")) == ("response.created", "response.completed", 1)
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == "Good morning"
    assert told[-1]["response"]["usage"]["total_tokens"] == 9


def vectors(answer: Answer) -> None:
    (vector,) = answer.json["data"]
    assert vector["embedding"] in ("AAAAPwAAgL4=", [0.5, -0.25])


def models(answer: Answer) -> None:
    listed = [entry["id"] for entry in answer.json["data"]]
    assert listed == ["first", "vectors", "claude-auto", "auto"]
    assert all(entry["display_name"] for entry in answer.json["data"])


def count(answer: Answer) -> None:
    assert answer.json.keys() == {"input_tokens"}
    assert answer.json["input_tokens"] > 0


def nothing(answer: Answer) -> None:
    assert answer.body == b""


def something(answer: Answer) -> None:
    assert answer.json


GETS: Mapping[str, Callable[[Answer], None]] = {
    "chat": chat, "chat stream": chat_stream, "message": message, "message stream": message_stream,
    "response": response, "response stream": response_stream, "vectors": vectors, "models": models, "count": count,
    "nothing": nothing, "something": something,
}  # fmt: skip


# -- the tests ----------------------------------------------------------------------------------------------------


def test_each_recipe_has_its_requests() -> None:
    assert list(CLIENTS) == HEADINGS


@each("client", CLIENTS)
def test_a_recipe_points_at_the_base_url_that_its_client_wants(client: str) -> None:
    assert CLIENTS[client]["base"] in re.findall(r"https?://[\w.:/-]*[\w/]", section(PAGE, f"## {client}"))


@pytest.mark.parametrize(("client", "request_"), REQUESTS.values(), ids=REQUESTS)
async def test_what_a_client_sends_is_answered(
    start: Start, upstream: ScriptedUpstream, client: str, request_: dict[str, Any]
) -> None:
    upstream.answers(answering)
    table = provider(
        "house", upstream, CHAT, models={"first": "", "vectors": ""}, more='endpoints = ["chat", "embeddings"]'
    )
    gateway = await start(table + TABLE)
    answer = await _sent(gateway, CLIENTS[client]["base"], request_)
    refused = request_["gets"].removeprefix("refusal of ")
    if refused != request_["gets"]:
        assert answer.status in (400, 404), answer.body
        assert refused in ("nothing", answer.json["error"]["param"])
        assert not upstream.seen
        return
    assert answer.status == 200, answer.body
    GETS[request_["gets"]](answer)
    dropped = answer.headers.get("X-Nyuro-Dropped", "").split(",")
    assert set(request_.get("dropped", ())) <= set(dropped)


async def _sent(gateway: Running, base: str, request: Mapping[str, Any]) -> Answer:
    path = request["path"] if "://" in request["path"] else base + request["path"]
    url = gateway.base + re.sub(r"^https?://[^/]+", "", path)
    body = json.dumps(request["body"]).encode() if "body" in request else None
    headers = {"Content-Type": "application/json", **request["headers"]}
    async with gateway.client.request(
        request["method"], url, data=body, headers=headers, allow_redirects=False
    ) as answer:
        return Answer(answer.status, answer.headers, await answer.read())
