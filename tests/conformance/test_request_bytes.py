"""Where client and provider speak the same dialect, the client's bytes reach the provider: all but the model's name,
and the question for usage where the gateway adds it.

What is expected is written, not cut out: each body is rendered twice, with the client's model and with the provider's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from .recordings import NATIVE, Recording, parametrized
from .serving import PATHS, Replay, Running, Seen, post

Body = Mapping[str, Any]
Render = Callable[[Body, str], str]

ASKED = '"stream_options":{"include_usage":true}'
ODD = (
    r'"x_big":123456789012345678901234567890,"x_small":1.0e-400,"x_zero":-0.0,"x_twice":1,"x_twice":{"model":"inner"},'
    r'"x_escapes":"\u00e9\/\ud83d\ude00\u0000","x_\u006bey":[ ],'
)


def as_recorded(body: Body, model: str) -> str:
    return json.dumps({**body, "model": model}, ensure_ascii=False, separators=(",", ":"))


def spaced_and_escaped(body: Body, model: str) -> str:
    return "\r\n " + json.dumps({**body, "model": model}, indent=2, separators=(" ,", " : ")) + "\n\t"


def turned_round(body: Body, model: str) -> str:
    return json.dumps(dict(reversed({**body, "model": model}.items())), ensure_ascii=False)


def with_odd_members(body: Body, model: str) -> str:
    return "{" + ODD + as_recorded(body, model)[1:]


def with_an_escaped_key(body: Body, model: str) -> str:
    return as_recorded({"model": "", **body}, model).replace('"model":', r'"mod\u0065l":', 1)


RENDERS: dict[str, Render] = {
    "as recorded": as_recorded,
    "spaced and escaped": spaced_and_escaped,
    "turned round": turned_round,
    "with odd members": with_odd_members,
    "with an escaped key": with_an_escaped_key,
}


FEW = frozenset({"oai-oc-streams-tool-call", "oai-tl-openai", "ant-tl-tools-streaming", "ant-pa-memory-tool"})


def has_request(recording: Recording) -> bool:
    return recording.request is not None and ("messages" in recording.request or "input" in recording.request)


def arrives(recording: Recording, text: str) -> str:
    """What the gateway makes of a body that already has the provider's model."""
    body = json.loads(text)
    asks = recording.surface == "chat" and recording.provider != "mistral" and body.get("stream") is True
    if not asks or "stream_options" in body:
        return text
    end = re.compile(r"\s*\}\s*$").search(text)
    assert end is not None
    return text[: end.start()] + "," + ASKED + text[end.start() :]


def sent_through(gateway: Running, replay: Replay, surface: str, text: str, headers: Body) -> Seen:
    mark = replay.mark()
    post(gateway.url, surface, text.encode(), headers)
    (seen,) = replay.since(mark)
    return seen


def check(gateway: Running, replay: Replay, recording: Recording, render: Render) -> Seen:
    body = recording.asked()
    text = render(body, f"{recording.provider}/{recording.name}")
    seen = sent_through(gateway, replay, recording.surface, text, {})
    assert seen.body.decode() == arrives(recording, render(body, recording.name))
    return seen


@parametrized(has_request, among=NATIVE)
def test_a_recorded_request_arrives_as_it_was_sent(gateway: Running, replay: Replay, recording: Recording) -> None:
    seen = check(gateway, replay, recording, as_recorded)
    assert seen.path == PATHS[recording.surface]
    assert seen.headers["content-type"] == "application/json"


@pytest.mark.parametrize("render", list(RENDERS.values())[1:], ids=list(RENDERS)[1:])
@parametrized(has_request, quick=FEW, among=NATIVE)
def test_it_does_so_however_it_is_written(
    gateway: Running, replay: Replay, recording: Recording, render: Render
) -> None:
    check(gateway, replay, recording, render)


# -- members that only the gateway reads, and headers --------------------------------------------------------------

CHAT = '{"model":"%soai-pa-stop-settings-openai",%s"messages":[{"role":"user","content":"Hi"}]}'
OURS = {  # between the model and the messages: what is sent, what of it arrives
    "models": ('"models":["messages/ant-pa-memory-tool"],', ""),
    "sort": ('"sort":"price",', ""),
    "provider": ('"provider":{"order":["chat"],"allow_fallbacks":false},', ""),
    "fallbacks": ('"fallbacks":[{"model":"chat"}],', ""),
    "route": ('"route":"fallback",', ""),
    "several, spaced": (' "sort" : "price" , "models" : [ ] , ', " "),
    "among others": (' "sort":"price", "seed": 1, "models":[],', ' "seed": 1, '),
}


@pytest.mark.parametrize(("ours", "left"), OURS.values(), ids=OURS)
@parametrized(lambda recording: recording.name == "oai-pa-stop-settings-openai")
def test_members_that_are_ours_do_not_arrive(
    gateway: Running, replay: Replay, recording: Recording, ours: str, left: str
) -> None:
    seen = sent_through(gateway, replay, "chat", CHAT % ("chat/", ours), {})
    assert (seen.case, seen.body.decode()) == (recording.name, CHAT % ("", left))


HEADERS = {
    "Authorization": "Bearer sk-of-the-client",
    "x-api-key": "sk-of-the-client",
    "Cookie": "session=1",
    "User-Agent": "somebody/1.0",
    "X-Stainless-OS": "Plan9",
    "Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "Anthropic-Version": "2023-06-01",
    "Anthropic-Beta": "context-1m-2025-08-07,files-api-2025-04-14",
}


@parametrized(lambda recording: recording.name in ("oai-pa-stop-settings-openai", "ant-pa-memory-tool"))
def test_of_the_clients_headers_only_those_of_the_dialect_arrive(
    gateway: Running, replay: Replay, recording: Recording
) -> None:
    text = as_recorded(recording.asked(), f"{recording.provider}/{recording.name}")
    seen = sent_through(gateway, replay, recording.surface, text, HEADERS)
    kept = {name.lower() for name in HEADERS if seen.headers.get(name.lower()) == HEADERS[name]}
    assert kept == ({"anthropic-version", "anthropic-beta"} if recording.surface == "messages" else set())
    assert "sk-of-the-client" not in str(dict(seen.headers))
    assert seen.headers["accept-encoding"] == "identity"
