"""JSON that nobody should have to read: refused with a 400 or passed on with its meaning, on every surface, and never a
500, a hang or a request to an address that a body names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from attrs import frozen
from each import each
from gateway import Answer, Running, provider
from playbook import CHAT, MESSAGES
from upstream import ScriptedUpstream, Seen, plain

from .corpus import Case, daemon, each_case, load

TEXTS = load("json/json_test_suite.jsonl")
BODIES = load("json/llm_bodies.jsonl")
PATHS = {"chat": CHAT.path, "messages": MESSAGES.path, "responses": "/v1/responses"}
SURFACES = {"openai-chat": CHAT.path, "anthropic-messages": MESSAGES.path}
MODELS = {"ok": "", "fault-529": ""}
# what may come back, by the corpus's word
ALLOWED = {
    "400": {400},
    "400-or-404": {400, 404},
    "400-or-pass": {200, 400},
    "400-or-one": {200, 400},
    "400-bounded": {200, 400, 503, 529},
    "no-ssrf": {200, 400},
}


@frozen
class Outcome:
    answer: Answer
    seen: tuple[Seen, ...]  # what reached the provider for it


@asynccontextmanager
async def played() -> AsyncIterator[tuple[Running, ScriptedUpstream]]:
    """A provider that speaks both dialects: every body reaches it in its own."""
    async with ScriptedUpstream() as upstream:
        upstream.answers(lambda seen: plain((MESSAGES if seen.path == MESSAGES.path else CHAT).answer("ok")))
        both = provider("both", upstream, MESSAGES, models=MODELS)
        table = both.replace('dialects = ["anthropic"]', 'dialects = ["openai-chat", "anthropic"]')
        async with daemon(table) as (running, _):
            yield running, upstream
            assert (await running.get(running.base + "/healthz")).status == 200


async def outcomes_of(jobs: Iterable[tuple[str, bytes]]) -> list[Outcome]:
    """One after the other, so that what reached the provider can be told apart."""
    found = []
    async with played() as (running, upstream):
        for path, body in jobs:
            before = len(upstream.seen)
            answer = await running.post(path, body)
            found.append(Outcome(answer, tuple(upstream.seen[before:])))
    return found


# -- as a whole body ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> dict[tuple[str, str], Outcome]:
    jobs = [(case, surface) for case in TEXTS for surface in PATHS]
    found = asyncio.run(outcomes_of((PATHS[surface], case.raw) for case, surface in jobs))
    return {(case.name, surface): outcome for (case, surface), outcome in zip(jobs, found, strict=True)}


@each("surface", PATHS)
@each_case(TEXTS)
def test_a_text_as_a_body_is_a_400(case: Case, surface: str, whole: dict[tuple[str, str], Outcome]) -> None:
    """What is JSON lacks the fields of a request."""
    outcome = whole[case.name, surface]
    error = outcome.answer.json["error"]
    assert outcome.answer.status == 400
    assert error["message"]
    if case.expected == "reject":
        assert error.get("code", error.get("details", {}).get("error_code")) == "invalid_json"
    assert not outcome.seen


# -- within a good request ---------------------------------------------------------------------------------------

REQUEST = b'{"model":"ok","messages":[{"role":"user","content":"hi"}],"x_value":%b}'


@pytest.fixture(scope="module")
def within() -> dict[str, Outcome]:
    found = asyncio.run(outcomes_of((CHAT.path, REQUEST % case.raw) for case in TEXTS))
    return {case.name: outcome for case, outcome in zip(TEXTS, found, strict=True)}


@each_case(TEXTS)
def test_a_text_within_a_request_passes_as_it_is_or_is_refused(case: Case, within: dict[str, Outcome]) -> None:
    outcome = within[case.name]
    assert outcome.answer.status in {"accept": {200}, "reject": {400}, "either": {200, 400}}[case.expected]
    if outcome.answer.status == 200:
        (seen,) = outcome.seen
        assert seen.body == (REQUEST % case.raw).replace(b'"ok"', b'"native-of-ok"', 1)
    else:
        assert not outcome.seen


# -- bodies of requests ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged() -> dict[str, Outcome]:
    found = asyncio.run(outcomes_of((SURFACES[case.more["surface"]], case.raw) for case in BODIES))
    return {case.name: outcome for case, outcome in zip(BODIES, found, strict=True)}


def shape_of(document: Any) -> set[str]:
    return set(document["error"])


@each_case(BODIES)
def test_a_body_is_refused_or_passed_on_unchanged(case: Case, judged: dict[str, Outcome]) -> None:
    outcome = judged[case.name]
    assert outcome.answer.status in ALLOWED[case.expected]
    assert len(outcome.seen) <= 5
    if outcome.answer.status >= 400:
        claude = case.more["surface"] == "anthropic-messages"
        assert {"type", "message"} <= shape_of(outcome.answer.json)
        assert ("param" in shape_of(outcome.answer.json)) is not claude
        return
    for seen in outcome.seen:
        if case.expected != "400-bounded":
            assert seen.body == case.raw.replace(b'"ok"', b'"native-of-ok"', 1)
        assert json.loads(seen.body)["model"].startswith("native-of-")
        assert "sk-x" not in str(seen.headers)
        assert seen.headers["host"].startswith("127.0.0.1:")
