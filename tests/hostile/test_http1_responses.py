"""Malformed, cut and surplus answers of a provider: the client gets a whole answer or a clean error, nobody gets the
answer of another request, and a connection that misbehaved is not used again."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from attrs import frozen
from gateway import Running, provider
from playbook import CHAT
from upstream import CUT, Script, ScriptedUpstream, Seen

from .corpus import PIECES, Case, daemon, each_case_in_pieces, in_pieces, load

CASES = load("http1/responses.jsonl")
ANSWER = b'"object":"chat.completion"'
GATEWAYS_WORD = frozenset({502, 503, 504})


@frozen
class Outcome:
    status: int
    body: bytes
    headers: dict[str, str]


@pytest.fixture(scope="module", params=["lean", pytest.param("plain", marks=pytest.mark.slow)])
def outcomes(request: pytest.FixtureRequest) -> dict[tuple[str, int], Outcome]:
    return asyncio.run(_played(request.param))


async def _played(exchange: str) -> dict[tuple[str, int], Outcome]:
    """A provider for each case and way of cutting it, in one gateway, so that none rests for another's fault."""
    jobs = in_pieces(CASES)
    table = "[retry]\ntries = 1\n"
    async with ScriptedUpstream() as upstream:
        for number in range(len(jobs)):
            table += provider(f"p{number}", f"{upstream.root}/{number}")
        upstream.answers(lambda seen: _script(jobs, seen))
        async with daemon(table, exchange=exchange) as (running, _):
            found = await asyncio.gather(*(_asked(running, number) for number in range(len(jobs))))
            assert (await running.get(running.base + "/healthz")).status == 200
        connections = [seen.connection for seen in upstream.seen]
        assert len(set(connections)) == len(connections), "every script ends its connection, so none was used again"
    return {(case.name, size): outcome for (case, size), outcome in zip(jobs, found, strict=True)}


def _script(jobs: list[tuple[Case, int]], seen: Seen) -> Script:
    case, size = jobs[int(seen.path.split("/")[1])]
    return [*(case.raw[at : at + (size or 1 << 20)] for at in range(0, len(case.raw), size or 1 << 20)), CUT]


async def _asked(running: Running, number: int) -> Outcome:
    answer = await running.ask(CHAT, f"p{number}")
    return Outcome(answer.status, answer.body, {name.lower(): value for name, value in answer.headers.items()})


@each_case_in_pieces(CASES)
def test_an_answer_is_whole_or_an_error(case: Case, size: int, outcomes: dict[tuple[str, int], Outcome]) -> None:
    outcome = outcomes[case.name, size]
    document = orjson.loads(outcome.body)
    if case.expected == "reject":
        assert outcome.status in GATEWAYS_WORD
    if case.expected == "accept" and ANSWER in case.raw:
        assert outcome.status == 200
    if outcome.status == 200:
        assert document["object"] == "chat.completion"
        assert outcome.body in case.raw.replace(b"\r\n", b"") or outcome.body in case.raw
    else:
        assert document["error"]["message"]
        assert not case.raw or case.raw[:40].decode("latin-1") not in outcome.body.decode("latin-1")
    assert not any("\0" in value or "\r" in value for value in outcome.headers.values())
    assert outcome.headers["x-request-id"].startswith("req_")


def test_all_were_played_in_every_way() -> None:
    assert {size for _, size in in_pieces(CASES)} == (set(PIECES) if CASES else set())
