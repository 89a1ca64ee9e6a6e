"""The sample tables over HTTP: where a prompt goes while all is well, and where while something fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
from gateway import PRINTABLE, Answer, Running, Start
from playbook import CHAT, MESSAGES
from scenes import ANTHROPIC, OPENAI, PROMPTS, ROUTES
from upstream import CUT, STREAM_HEAD, ScriptedUpstream, piece, plain

KEYS = {**OPENAI, **ANTHROPIC}


def sample(name: str, hosts: Mapping[str, ScriptedUpstream]) -> str:
    """A sample less its listeners, its hosts being these."""
    text = (ROUTES / f"{name}.toml").read_text()
    for host, upstream in hosts.items():
        text = text.replace(f"http://{host}.test", upstream.root)
    return "[providers" + text.partition("[providers")[2]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)


@pytest.fixture
async def third() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as started:
        yield started


async def auto(gw: Running, label: str) -> Answer:
    messages = [{"role": "user", "content": PROMPTS[label]}]
    return await gw.post(CHAT.path, {"model": "auto", "messages": messages})


# class -> its target, and who answers while the edge fails
EDGE = {
    "code": ("qwen/coder-32b", "gpt-4o"),
    "reasoning": ("deepseek/r1-32b", "claude-opus-4-8"),
    "summarization": ("claude-haiku-4-5", "claude-haiku-4-5"),
    "extraction": ("gpt-4o-mini", "gpt-4o-mini"),
    "chat": ("meta/llama-3.3-70b", "gpt-4o-mini"),
}


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("label", EDGE)
async def test_the_edge_table_answers_from_its_target_and_from_the_next_while_the_edge_fails(
    upstream: ScriptedUpstream, second: ScriptedUpstream, third: ScriptedUpstream, start: Start, label: str
) -> None:
    gw = await start(sample("edge", {"edge": upstream, "openai": second, "anthropic": third}))
    target, other = EDGE[label]
    upstream.plays(plain(CHAT.answer("edge")))
    second.plays(plain(CHAT.answer("openai")))
    third.plays(plain(MESSAGES.answer("anthropic")))
    answer = await auto(gw, label)
    assert (answer.headers["X-Nyuro-Model"], answer.headers["X-Nyuro-Fallback-Used"]) == (target, "false")
    upstream.plays([CUT])
    answer = await auto(gw, label)
    assert answer.headers["X-Nyuro-Model"] == other
    assert answer.headers["X-Nyuro-Fallback-Used"] == str(other != target).lower()


@pytest.mark.parametrize("label", EDGE)
async def test_the_edge_table_needs_no_key(upstream: ScriptedUpstream, start: Start, label: str) -> None:
    gw = await start(sample("edge", {"edge": upstream}))
    upstream.plays(plain(CHAT.answer("edge")))
    answer = await auto(gw, label)
    skipped = label in ("summarization", "extraction")  # these lists begin with a house that wants one
    assert answer.headers["X-Nyuro-Model"] == ("meta/llama-3.1-8b" if skipped else EDGE[label][0])
    assert answer.headers["X-Nyuro-Fallback-Used"] == str(skipped).lower()


ARRAY = {"models": ["gpt-4o", "claude-3-5-sonnet", "strategy:cost"], "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.usefixtures("keys")
async def test_an_array_of_names_and_strategies_goes_on_before_the_first_byte_and_never_after_it(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://127.0.0.1:9")
    gw = await start(sample("local_first", {"openai": upstream, "anthropic": second}))
    upstream.plays([CUT])
    second.plays(plain(MESSAGES.answer("from the second")))
    answer = await gw.post(CHAT.path, ARRAY)
    assert (answer.headers["X-Nyuro-Model"], answer.headers["X-Nyuro-Fallback-Used"]) == ("claude-3-5-sonnet", "true")
    assert len(answer.headers["X-Nyuro-Candidates"].split(",")) >= 3
    upstream.plays([STREAM_HEAD, piece(CHAT.start + CHAT.text("half an ans")), CUT])
    asked = len(second.seen)
    answer = await gw.post(CHAT.path, {**ARRAY, "stream": True})
    assert (answer.status, answer.headers["X-Nyuro-Model"]) == (200, "gpt-4o")
    assert b'"error"' in answer.body
    assert b"[DONE]" not in answer.body
    assert len(second.seen) == asked


@pytest.mark.usefixtures("keys")
async def test_what_is_local_stays_when_all_of_it_is_down(
    upstream: ScriptedUpstream, second: ScriptedUpstream, third: ScriptedUpstream, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("OLLAMA_BASE_URL", f"{third.root}/v1")
    gw = await start(sample("local_first", {"openai": upstream, "anthropic": second}))
    third.plays([CUT])
    for _ in range(8):
        answer = await gw.ask(CHAT, "strategy:local")
        assert answer.status in (502, 503)
        assert set(answer.headers["X-Nyuro-Candidates"].split(",")) == {"qwen2.5-coder", "llama3.1"}
    assert third.seen
    assert not upstream.seen
    assert not second.seen


@pytest.mark.usefixtures("keys")
async def test_a_fence_goes_to_the_local_specialist_and_says_why(
    upstream: ScriptedUpstream, second: ScriptedUpstream, third: ScriptedUpstream, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("OLLAMA_BASE_URL", f"{third.root}/v1")
    gw = await start(sample("local_first", {"openai": upstream, "anthropic": second}))
    third.plays(plain(CHAT.answer("ok")))
    answer = await auto(gw, "code")
    assert answer.headers["X-Nyuro-Model"] == "qwen2.5-coder"
    assert answer.headers["X-Nyuro-Candidates"] == "qwen2.5-coder,claude-3-5-sonnet,gpt-4o"
    assert answer.headers["X-Nyuro-Route-Reason"] == "detected code cues -> code list"
    assert PRINTABLE.fullmatch(answer.headers["X-Nyuro-Route-Reason"])


@pytest.mark.usefixtures("keys")
async def test_a_model_that_the_table_gains_is_chosen_without_a_restart(
    upstream: ScriptedUpstream, second: ScriptedUpstream, third: ScriptedUpstream, start: Start
) -> None:
    gw = await start(sample("edge", {"edge": upstream, "openai": second, "anthropic": third}))
    for it in (upstream, second):
        it.plays(plain(CHAT.answer("ok")))
    assert (await auto(gw, "chat")).headers["X-Nyuro-Model"] == "meta/llama-3.3-70b"
    gained = '[models."house/new"]\nprovider = "openai"\nprice = { input = 0.01, output = 0.01 }\n'
    text = gw.config.read_text().replace('chat = ["', 'chat = ["house/new", "') + gained
    gw.config.write_text(text)
    assert (await gw.over_socket("POST", "/admin/reload", {})).json["config"]
    assert (await auto(gw, "chat")).headers["X-Nyuro-Model"] == "house/new"
    assert (await gw.ask(CHAT, "strategy:cost")).headers["X-Nyuro-Model"] == "house/new"
