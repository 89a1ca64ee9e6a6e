"""Malformed, smuggling and oversized requests: one answer at most where one is due, a closed connection behind a
refusal, and nothing of what was smuggled reaches anybody."""

from __future__ import annotations

import asyncio

import pytest
from attrs import frozen
from gateway import provider
from playbook import CHAT
from upstream import ScriptedUpstream, plain

from .corpus import Case, all_spoken, daemon, each_case_in_pieces, in_pieces, load, statuses

CASES = load("http1/requests.jsonl")
REFUSALS = frozenset({400, 408, 411, 413, 414, 415, 417, 421, 426, 431, 501, 505})
BEFORE_THE_BODY = frozenset({401, 403, 404, 405})  # a fault of the body may be met by these, and a closed connection


@frozen
class Outcome:
    answer: bytes
    upstream: bytes  # all that any case made it hear


@pytest.fixture(scope="module", params=["lean", pytest.param("plain", marks=pytest.mark.slow)])
def outcomes(request: pytest.FixtureRequest) -> dict[tuple[str, int], Outcome]:
    """Every case in every way of cutting it, played at once against one process."""
    return asyncio.run(_played(request.param))


async def _played(exchange: str) -> dict[tuple[str, int], Outcome]:
    async with ScriptedUpstream() as upstream:
        upstream.plays(plain(CHAT.answer("ok")))
        async with daemon(provider("first", upstream, models={"ok": ""}), exchange=exchange) as (running, _):
            jobs = in_pieces(CASES)
            answers = await all_spoken(running.port, [(case.raw, size) for case, size in jobs])
            assert (await running.get(running.base + "/healthz")).status == 200
            heard = b"\n".join(seen.raw for seen in upstream.seen)
    return {(case.name, size): Outcome(answer, heard) for (case, size), answer in zip(jobs, answers, strict=True)}


def verdicts(answer: bytes) -> set[str]:
    """What may be said of it: a refusal of the path that closes the connection may be meant for the body as well."""
    found = statuses(answer)
    if not found:
        return {"close"}
    closes = b"connection: close" in answer.lower()
    if found[-1] in REFUSALS and closes:
        return {"reject"}
    return {"accept", "reject"} if found[-1] in BEFORE_THE_BODY and closes else {"accept"}


@each_case_in_pieces(CASES)
def test_a_request_is_framed_as_it_should_be(case: Case, size: int, outcomes: dict[tuple[str, int], Outcome]) -> None:
    outcome = outcomes[case.name, size]
    found = statuses(outcome.answer)
    assert len(found) <= case.more["max_responses"], outcome.answer
    assert not any(status >= 500 and status not in REFUSALS for status in found), outcome.answer
    assert verdicts(outcome.answer) & {case.expected, *case.more["also_ok"]}, outcome.answer
    for text in case.more["forbid"]:
        assert text.encode() not in outcome.answer + outcome.upstream
