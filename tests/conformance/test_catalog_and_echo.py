"""The catalog as the SDKs list it, and the provider inside the gateway, which answers a machine without any key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from .sdks import (
    anthropic_client,
    ask,
    ask_async,
    async_anthropic_client,
    async_openai_client,
    final_message,
    openai_client,
)
from .serving import HEAD, Running, running

ECHO = "embedded/echo"
MODELS = """
[providers.there]
dialects = ["openai-chat"]
base_url = "http://127.0.0.1:9/v1"
api_key = "none"
[providers.absent]
dialects = ["openai-chat"]
base_url = "http://127.0.0.1:9/v1"
api_key = "${THIS_VARIABLE_IS_NOT_SET}"
[models."made/of glass?"]
provider = "there"
native = "glass"
[models.unreachable]
provider = "absent"
[aliases]
friend = "made/of glass?"
"""


@pytest.fixture(scope="module")
def catalog() -> Iterator[Running]:
    more = "".join(f'[models.m{number}]\nprovider = "there"\n' for number in range(60))
    with running(HEAD + MODELS + more) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def echo() -> Iterator[Running]:
    """The table that the project ships, on a machine where no variable is set."""
    shipped = (Path(__file__).parents[2] / "routes.toml").read_text()
    table = shipped.replace('"127.0.0.1:8080"', '"127.0.0.1:0"').replace('"127.0.0.1:8081"', '"127.0.0.1:0"')
    with running(table) as gateway:
        yield gateway


# -- the catalog -----------------------------------------------------------------------------------------------------


async def test_both_sdks_list_the_same_models(catalog: Running) -> None:
    with openai_client(catalog.url) as gpt, anthropic_client(catalog.url) as claude:
        listed = [model.id for model in gpt.models.list()]
        paged = [model.id for model in claude.models.list(limit=7)]
    async with async_openai_client(catalog.url) as gpt_async, async_anthropic_client(catalog.url) as claude_async:
        listed_async = [model.id async for model in gpt_async.models.list()]
        paged_async = [model.id async for model in claude_async.models.list()]
    assert listed == paged == listed_async == paged_async
    assert {"made/of glass?", "friend", "auto", "m0", "m59"} <= set(listed)
    assert "unreachable" not in listed


def test_a_page_goes_both_ways(catalog: Running) -> None:
    with anthropic_client(catalog.url) as claude:
        first = claude.models.list(limit=5)
        second = first.get_next_page()
        back = claude.models.list(limit=5, before_id=second.data[0].id)
    assert [model.id for model in back.data] == [model.id for model in first.data]
    assert second.data[0].id not in [model.id for model in first.data]


@pytest.mark.parametrize("id", ["m7", "made/of glass?", "friend", "auto"])
def test_both_sdks_show_a_model(catalog: Running, id: str) -> None:
    with openai_client(catalog.url) as gpt, anthropic_client(catalog.url) as claude:
        assert gpt.models.retrieve(id).id == id
        model = claude.models.retrieve(id)
    assert (model.id, model.type) == (id, "model")


def test_a_model_that_is_not_there_is_not_found(catalog: Running) -> None:
    with openai_client(catalog.url) as gpt, anthropic_client(catalog.url) as claude:
        with pytest.raises(openai.NotFoundError, match="m5"):
            gpt.models.retrieve("m555")
        with pytest.raises(anthropic.NotFoundError, match="m5"):
            claude.models.retrieve("m555")


# -- the provider inside ---------------------------------------------------------------------------------------------

TOOLS: dict[str, dict[str, Any]] = {
    "chat": {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]},
    "messages": {"tools": [{"name": "look", "input_schema": {"type": "object"}}], "max_tokens": 99},
}


def body_for(surface: str, model: str, *, stream: bool, tools: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Grüß dich, Welt! 👋"}]}
    if tools:
        body |= TOOLS[surface]
    if surface == "messages":
        body["max_tokens"] = 99
    elif stream:
        body["stream_options"] = {"include_usage": True}
    return {**body, "stream": stream}


@pytest.mark.parametrize("tools", [False, True], ids=["without tools", "with tools"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("surface", ["chat", "messages"])
@pytest.mark.parametrize("model", [pytest.param(ECHO, marks=pytest.mark.slow), "auto"])
async def test_a_machine_without_a_key_answers(
    echo: Running, model: str, surface: str, stream: bool, tools: bool
) -> None:
    body = body_for(surface, model, stream=stream, tools=tools)
    for heard in (ask(echo.url, surface, body), await ask_async(echo.url, surface, body)):
        said = heard.said()
        assert said.text == "You said: Grüß dich, Welt! 👋"
        assert said.stop == ("stop" if surface == "chat" else "end_turn")
        assert said.usage == {"input": 4, "cached": 0, "output": 6}
        assert (said.calls, said.failed) == ((), False)


def test_the_messages_client_puts_the_echo_together(echo: Running) -> None:
    body = body_for("messages", ECHO, stream=True, tools=False)
    assert final_message(echo.url, body).text == "You said: Grüß dich, Welt! 👋"
