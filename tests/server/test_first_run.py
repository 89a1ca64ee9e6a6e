"""The shipped table on a machine without any key, over HTTP: what answers, and what says which variable to set."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from gateway import Running
from playbook import CHAT, MESSAGES, TONGUES, Tongue

from proxy.app import App
from proxy.server.reload import load_table

LOOPS = ("uvloop",)
ROUTES = Path(__file__).parents[2] / "routes.toml"
TABLE = load_table(ROUTES.read_bytes(), {})
PATTERNS = ["gpt-9", "claude-9", "chatgpt-x", "meta/x", "mistral/x", "qwen/x", "deepseek/x", "moonshot/x", "google/x"]
NATIVE = ["openai/gpt-4o", "ollama/x", "vllm/y"]
CHOOSING = [
    "auto", "strategy:cost", "strategy:quality", "strategy:latency", "strategy:local", "industry:legal",
    "profile:general", "general", "claude-auto",
]  # fmt: skip
OTHERS = [id for id in (*TABLE.models, *TABLE.aliases) if id not in ("embedded/echo", *CHOOSING)]


@pytest.fixture
async def bare(home: Path) -> AsyncIterator[Running]:
    config, state = home / "routes.toml", home / "state"
    text = ROUTES.read_text().replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:8081", "127.0.0.1:0")
    config.write_text(text)
    app = App(config, env={"STATE_DIRECTORY": str(state)})
    await app.start()
    try:
        async with aiohttp.ClientSession() as client:
            yield Running(f"http://{app.addresses[0]}", f"http://{app.admin_addresses[0]}", state, client, config, app)
    finally:
        await app.stop(drain=0)


@pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
async def test_every_other_shipped_name_says_which_variable_to_set_and_that_a_retry_is_no_use(
    bare: Running, tongue: Tongue
) -> None:
    for name in (*OTHERS, *PATTERNS, *NATIVE):
        answer = await bare.ask(tongue, name)
        assert answer.status == 503, name
        assert answer.headers["x-should-retry"] == "false"
        assert "Retry-After" not in answer.headers
        assert answer.headers["X-Nyuro-Model"] == "none"
        message = answer.json["error"]["message"]
        assert re.search(r"[A-Z_]{6,} (is|are) not set", message), message
        assert "retrying will not help" in message


async def test_a_provider_that_needs_two_variables_names_both(bare: Running) -> None:
    message = (await bare.ask(CHAT, "meta-llm")).json["error"]["message"]
    assert "CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN are not set" in message


@pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
async def test_what_leaves_the_choice_is_answered_by_the_echo_and_says_so(bare: Running, tongue: Tongue) -> None:
    for name in CHOOSING:
        answer = await bare.ask(tongue, name)
        assert (answer.status, answer.headers["X-Nyuro-Model"]) == (200, "embedded/echo"), name
        assert "no provider is configured" in answer.headers["X-Nyuro-Route-Reason"]
        assert "You said" in tongue.read_text(answer.json)


@pytest.mark.parametrize("model", [{}, {"model": None}], ids=["no model", "a null"])
async def test_the_chat_of_old_clients_takes_a_missing_model_for_meta_llm(
    bare: Running, model: dict[str, None]
) -> None:
    body = {name: value for name, value in CHAT.request().items() if name != "model"}
    answer = await bare.post("/ai/chat", body | model)
    assert "meta/llama-3.1-8b" in answer.json["error"]["message"]
    assert (await bare.post(CHAT.path, body | model)).json["error"]["code"] == "missing_model"
    assert (await bare.post(MESSAGES.path, body | model)).status == 400
