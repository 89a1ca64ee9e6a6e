"""Sessions of coding agents, several turns long: the official SDK puts each recorded answer together, sends it back
with the results of its calls, and asks on, as Claude Code and Codex do.

What is looked at is what arrives upstream: the very bytes where the dialect is the same; in a translation everything
that was said, with proofs of thinking for their own mint and nobody else's; and each turn begins with the bytes of the
one before, so that a provider's prompt cache hits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import anthropic
import openai
import pytest
from attrs import define, field, frozen

from .conftest import Start
from .recordings import Recording, named
from .sdks import KEY, TIMEOUT_S, TLS
from .serving import Replay, Running, Seen, provider
from .test_every_pair import there

# What answers turn by turn: calls, thinking with its proof, and an answer.
SCRIPTS = {
    "anthropic": (
        "ant-tl-tools-streaming", "ant-sw-thinking-prompt",
        "ant-oc-writes-then-reads-cache-control-on-identical-second-call",
    ),
    "openai-chat": (
        "oai-pa-complex-agent-run-in-flow", "oc-xai-va-xai-tool-call-2", "oc-together-oc-togetherai-streams-text",
    ),
    "openai-responses": (
        "resp-rl-function-calling-can-use-tools-without-parameters-in-multi-t",
        "resp-pr-stream-multi-tool-conversation-responses-1", "resp-oc-responses-gpt-5-5-reasoning",
    ),
    "gemini": (
        "gem-va-stream-no-args-tool-call", "gem-pr-stream-with-tools-thought-1", "gem-oc-streams-tool-call",
    ),
    "ollama": ("oll-pr-stream-with-tools-1", "oll-pr-stream-with-thinking-1", "oll-pr-stream-without-thinking-1"),
}  # fmt: skip
TURNS_OF = {"gemini": "contents", "openai-responses": "input"}  # elsewhere `messages`
BETAS = "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27"
SESSIONS = count()
SCHEMA = {"type": "object", "properties": {}}


@frozen
class Turn:
    """What a client sent, and what of it arrived."""

    sent: bytes = field(repr=False)
    seen: Seen


@define
class Wire:
    """Notes the body of every request that an SDK sends."""

    bodies: list[bytes] = field(factory=list)

    def note(self, request: Any) -> None:
        self.bodies.append(request.content)


def script(upstream: str) -> list[Recording]:
    return [named(name) for name in SCRIPTS[upstream]]


def tools_of(upstream: str) -> list[str]:
    return sorted({name for recording in script(upstream) for _, name, _ in there(recording).calls})


def gateway_for(start: Start, replay: Replay, upstream: str) -> Running:
    version = "/v1" if upstream.startswith("openai") else ""
    names = ",".join(SCRIPTS[upstream])
    case = replay.case(f"{names};session={next(SESSIONS)}")  # each session hears the script from its start
    return start(provider("house", upstream, f"{case}{version}") + '[aliases]\nclaude-house = "house/native"\n')


def like_claude_code(gateway: Running, upstream: str, wire: Wire) -> Iterator[dict[str, Any]]:
    """The final message of each turn. The betas' client keeps whatever it does not know."""
    http = anthropic.DefaultHttpxClient(verify=TLS, event_hooks={"request": [wire.note]})
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "Fix it.", "cache_control": {"type": "ephemeral"}}]}
    ]
    tools: list[Any] = [{"name": name, "input_schema": SCHEMA} for name in tools_of(upstream)]
    with anthropic.Anthropic(
        base_url=gateway.url, api_key=KEY, max_retries=0, timeout=TIMEOUT_S, http_client=http
    ) as client:
        for _ in SCRIPTS[upstream]:
            with client.beta.messages.stream(
                model="claude-house",
                max_tokens=32_000,
                system=[{"type": "text", "text": "You write code.", "cache_control": {"type": "ephemeral"}}],
                messages=messages,
                tools=tools,
                thinking={"type": "enabled", "budget_tokens": 16_000},
                betas=BETAS.split(","),
                extra_headers={"x-claude-code-session-id": "s1"},
                extra_body={"context_management": {"edits": []}},
            ) as stream:
                final = stream.get_final_message().model_dump(mode="json", exclude_none=True, warnings=False)
            content = [{k: v for k, v in block.items() if k != "parsed_output"} for block in final["content"]]
            messages.append({"role": "assistant", "content": content})
            results = [
                {"type": "tool_result", "tool_use_id": block["id"], "content": f"result of {block['name']}"}
                for block in content
                if block["type"] == "tool_use"
            ]
            messages.append({"role": "user", "content": results or [{"type": "text", "text": "Go on."}]})
            yield final


def like_codex(gateway: Running, upstream: str, wire: Wire) -> Iterator[dict[str, Any]]:
    """The final response of each turn. Nothing is stored: every item goes back."""
    http = openai.DefaultHttpxClient(verify=TLS, event_hooks={"request": [wire.note]})
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Fix it."}]}]
    tools: list[Any] = [
        {"type": "function", "name": name, "parameters": SCHEMA, "strict": False} for name in tools_of(upstream)
    ]
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0, timeout=TIMEOUT_S, http_client=http
    ) as client:
        for _ in SCRIPTS[upstream]:
            with client.responses.stream(
                model="claude-house",
                instructions="You write code.",
                input=items,
                tools=tools,
                store=False,
                include=["reasoning.encrypted_content"],
                extra_body={"prompt_cache_key": "s1", "text": {"verbosity": "low"}},
                extra_headers={"session_id": "s1"},
            ) as stream:
                final = stream.get_final_response().model_dump(mode="json", exclude_none=True, warnings=False)
            for item in final["output"]:
                kept = {k: v for k, v in item.items() if k not in ("status", "parsed_arguments")}
                items.append(kept)
            calls = [item for item in final["output"] if item["type"] == "function_call"]
            items += [
                {"type": "function_call_output", "call_id": call["call_id"], "output": f"result of {call['name']}"}
                for call in calls
            ]
            if not calls:
                items.append({"role": "user", "content": [{"type": "input_text", "text": "Go on."}]})
            yield final


AGENTS = {"Claude Code": ("anthropic", like_claude_code), "Codex": ("openai-responses", like_codex)}


each_session = pytest.mark.parametrize(
    ("agent", "upstream"),
    [
        pytest.param(agent, upstream, id=f"{agent} at {upstream}", marks=[] if upstream == own else [pytest.mark.slow])
        for agent, (own, _) in AGENTS.items()
        for upstream in SCRIPTS
    ],
)


def played(start: Start, replay: Replay, agent: str, upstream: str) -> list[Turn]:
    _, play = AGENTS[agent]
    gateway, wire, mark = gateway_for(start, replay, upstream), Wire(), replay.mark()
    assert len(list(play(gateway, upstream, wire))) == len(SCRIPTS[upstream])
    return [Turn(sent, seen) for sent, seen in zip(wire.bodies, replay.since(mark), strict=True)]


def turns(turn: Turn, upstream: str) -> list[Any]:
    found: list[Any] = turn.seen.json()[TURNS_OF.get(upstream, "messages")]
    return found


@pytest.mark.parametrize("agent", AGENTS)
def test_to_its_own_api_each_turn_goes_byte_for_byte(start: Start, replay: Replay, agent: str) -> None:
    upstream, _ = AGENTS[agent]
    for turn in played(start, replay, agent, upstream):
        assert turn.seen.body == turn.sent.replace(b'"model":"claude-house"', b'"model":"native"')
    assert turn.seen.body.count(b"result of") >= 2


@each_session
def test_every_turn_begins_with_the_bytes_of_the_one_before(
    start: Start, replay: Replay, agent: str, upstream: str
) -> None:
    """A prompt cache hits where the bytes are the same from the start: instructions, tools, the turns so far."""
    first, *later = played(start, replay, agent, upstream)
    before = first
    for turn in later:
        here, there_ = turns(turn, upstream), turns(before, upstream)
        assert json.dumps(here[: len(there_)]) == json.dumps(there_)
        rest = {k: v for k, v in turn.seen.json().items() if k != TURNS_OF.get(upstream, "messages")}
        assert rest == {k: v for k, v in first.seen.json().items() if k != TURNS_OF.get(upstream, "messages")}
        before = turn


@each_session
def test_calls_and_results_arrive_and_belong_together(start: Start, replay: Replay, agent: str, upstream: str) -> None:
    last = played(start, replay, agent, upstream)[-1].seen.body.decode()
    for recording in script(upstream)[:-1]:
        said = there(recording)
        for _, name, arguments in said.calls:
            assert f"result of {name}" in last
            for value in arguments.values():
                assert json.dumps(value, ensure_ascii=False).strip('"') in last.replace('\\"', '"')
        assert said.text.strip()[:40] in last.replace("\\n", "\n")


# Who gets its own proofs back: the dialect itself, and by sealed items whoever is reached by Codex. Messages has no
# place for those of a call of Gemini's.
RETURNS = [("Claude Code", "anthropic"), ("Codex", "openai-responses"), ("Codex", "anthropic"), ("Codex", "gemini")]


@each_session
def test_proofs_of_thinking_go_back_to_their_mint_unchanged_and_to_nobody_else(
    start: Start, replay: Replay, agent: str, upstream: str
) -> None:
    last = played(start, replay, agent, upstream)[-1].seen.body.decode()
    proofs = [proof for recording in script(upstream)[:-1] for proof in there(recording).proofs]
    returned = [proof for proof in proofs if proof in last]
    if (agent, upstream) in RETURNS:
        assert proofs
        assert returned == proofs
    own = "anthropic" if agent == "Claude Code" else "openai-responses"
    if upstream != own:
        assert "encrypted_content" not in last.replace("reasoning.encrypted_content", "")
        assert "pointsman/" not in last, "a seal of the gateway's never leaves it"
