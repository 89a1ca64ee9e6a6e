"""What request bodies do wrong: rows B1 to B16, on all three surfaces."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from attrs import define
from playbook import CHAT, MESSAGES, Tongue
from upstream import ScriptedUpstream, plain

from faults import table
from faults.bench import CALLER_KEY, Daemon, Got, Misbehaving, block, checked, daemon, holds_canary, launched
from faults.responses import RESPONSES, SURFACES, asking

HERE = "tests/faults/test_bodies.py"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@define(eq=False)
class Bed:
    daemon: Daemon
    provider: Misbehaving
    elsewhere: ScriptedUpstream  # where nobody may ever go

    async def each(self, body: bytes | dict[str, Any], *tongues: Tongue) -> list[Got]:
        got = []
        for tongue in tongues or SURFACES:
            sent = body if isinstance(body, bytes) else {**asking(tongue, f"ok-{tongue.surface}", stream=False), **body}
            answer = await self.daemon.post(tongue, sent)
            assert answer.status not in (0, 500), (tongue.surface, body if len(str(body)) < 300 else "...")
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers[tongue.id_header]
            got.append(answer)
        return got

    def asked(self) -> int:
        return len(self.provider.upstream.seen)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bed() -> AsyncIterator[Bed]:
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pm-")))
        provider = Misbehaving(await stack.enter_async_context(ScriptedUpstream()))
        elsewhere = await stack.enter_async_context(ScriptedUpstream())
        blocks = []
        for tongue in SURFACES:
            provider.plays(f"ok-{tongue.surface}", plain(tongue.answer("hello")))
            provider.plays(f"bad-{tongue.surface}", plain(tongue.error("server_error", "no"), 500))
            blocks += [
                block(f"{kind}-{tongue.surface}", provider.root(f"{kind}-{tongue.surface}"), tongue)
                for kind in ("ok", "bad")
            ]
            bad = f"bad-{tongue.surface}"
            blocks += [
                f'[models."many-{tongue.surface}-{number}"]\nprovider = "{bad}"\nnative = "{number}"\n'
                for number in range(20)
            ]
        running = await stack.enter_async_context(daemon("\n".join(blocks), home))
        yield Bed(running, provider, elsewhere)


def tell(number: str, done: str, saw: str, test: str, record: str = "as the client saw it") -> None:
    table.tell(number, done, saw, record, test=f"{HERE}::{test}")


NO_JSON = {
    "B1": (
        "not JSON, nothing, cut, two documents, no object",
        [b"hello", b"", b'{"model":"ok-chat"', b'{"model":"a"}{}', b'{"model":"a"} x', b"[]", b'"a"', b"1", b"null"],
    ),
    "B2": (
        "NaN, Infinity, 1e999, 5,000 digits",
        [b'{"model":"ok-chat","x":%b}' % bad for bad in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000)],
    ),
    "B3": ("100,000 nested brackets", [b"[" * 100_000, b'{"a":' * 100_000, b'{"model":' + b"[" * 100_000]),
    "B7": (
        "UTF-16, UTF-32, a BOM, invalid UTF-8",
        [
            *('{"model":"a"}'.encode(wide) for wide in ("utf-16", "utf-32")),
            b'\xef\xbb\xbf{"model":"a"}',
            b'{"model":"\xff"}',
        ],
    ),
}


@pytest.mark.parametrize("number", NO_JSON)
async def test_what_is_no_json_object_is_refused(bed: Bed, number: str) -> None:
    done, bodies = NO_JSON[number]
    before = bed.asked()
    for body in bodies:
        for got in await bed.each(body):
            assert got.status == 400, body[:40]
    assert bed.asked() == before
    tell(number, done, "400; nobody is asked", "test_what_is_no_json_object_is_refused")


async def test_a_member_that_stands_twice_is_refused_where_it_is_read(bed: Bed) -> None:
    for tongue in SURFACES:
        whole = orjson.dumps(asking(tongue, f"ok-{tongue.surface}", stream=False))
        for twice in (b'{"model":"other",', b'{"stream":true,"stream":false,'):
            (got,) = await bed.each(twice + whole[1:], tongue)
            assert (got.status, b"twice" in got.body) == (400, True)
        (got,) = await bed.each(b'{"x-own":1,"x-own":2,' + whole[1:], tongue)
        assert got.status == 200
        assert b'{"x-own":1,"x-own":2,' in bed.provider.seen[f"ok-{tongue.surface}"][-1].body
    tell(
        "B4",
        "model twice, stream twice; another member twice",
        "400, naming it; passed as it came",
        "test_a_member_that_stands_twice_is_refused_where_it_is_read",
    )


async def test_odd_characters_pass_as_they_came(bed: Bed) -> None:
    for number, raw in {"B5": rb"\ud83d", "B6": rb"\u0000\u0007" + "\u202e\u2066".encode()}.items():
        for tongue in SURFACES:
            body = orjson.dumps(asking(tongue, f"ok-{tongue.surface}", stream=False)).replace(b"hello", raw)
            (got,) = await bed.each(body, tongue)
            assert got.status == 200
            assert raw in bed.provider.seen[f"ok-{tongue.surface}"][-1].body
        done = "a lone surrogate" if number == "B5" else "NUL, control and bidi characters"
        tell(
            number,
            done,
            "passed as the same escape" if number == "B5" else "passed unchanged",
            "test_odd_characters_pass_as_they_came",
            "200, `ok`",
        )


MODELS: list[Any] = [
    None,
    1,
    [],
    {},
    "",
    "x" * 100_000,
    "http://127.0.0.1/x",
    "a\r\nX-Evil: 1",
    "'\"<script>",
    "{{7*7}}",
    "../../etc/passwd",
]


async def test_a_model_of_any_kind_is_a_400_or_a_404(bed: Bed) -> None:
    for model in MODELS:
        for got in await bed.each({"model": model}):
            assert got.status in (400, 404), model
            assert "x-evil" not in got.headers
            assert len(got.body) < 4096
    tell(
        "B8",
        "model: null, a number, a list, 100 KB, a URL, CRLF, a script, a template",
        "400 or 404, cut and escaped",
        "test_a_model_of_any_kind_is_a_400_or_a_404",
    )


TURNS: list[Any] = [None, "text", [], [1], [[]], [{}], {"role": "user"}]


async def test_turns_of_any_kind_break_nothing(bed: Bed) -> None:
    for tongue, member in ((CHAT, "messages"), (MESSAGES, "messages"), (RESPONSES, "input")):
        for turns in TURNS:
            (got,) = await bed.each({member: turns}, tongue)
            assert got.status in (200, 400), turns
        many = [{"role": "user", "content": "a"}] * 10_000
        (got,) = await bed.each({member: many}, tongue)
        assert got.status == 200
        (got,) = await bed.each({member: [{"role": "user", "content": "x" * (30 << 20)}]}, tongue)
        assert got.status == 200
    tell(
        "B9",
        "turns: null, a string, none, numbers; 10,000; 30 MB",
        "400, or the provider judges",
        "test_turns_of_any_kind_break_nothing",
    )


async def test_stream_and_numbers_mean_one_thing(bed: Bed) -> None:
    odd: list[Any] = ["true", 1, [], {}]
    for value in odd:
        for got in await bed.each({"stream": value}):
            assert got.status == 400, value
    tell("B10", "stream: a string, a number", "400", "test_stream_and_numbers_mean_one_thing")
    numbers: list[float] = [-1, 1e308, 10**18, 0]
    for number in numbers:
        for tongue in SURFACES:
            member = "max_output_tokens" if tongue is RESPONSES else "max_tokens"
            (got,) = await bed.each({member: number}, tongue)
            assert got.status in (200, 400), number
    for tongue in SURFACES:
        huge = orjson.dumps(asking(tongue, f"ok-{tongue.surface}", stream=False)).replace(b":16", b":%d" % 10**20)
        (got,) = await bed.each(huge, tongue)
        assert got.status in (200, 400)
    (got,) = await bed.each({"n": 10**9}, CHAT)
    assert got.status in (200, 400)
    rows = await bed.daemon.records(16)
    assert all((row["charged_nanos"] or 0) >= 0 for row in rows)
    tell(
        "B11",
        "max_tokens: -1, 1e308, 10^18, 10^20; n: 10^9",
        "400, or the provider judges; no estimate is negative",
        "test_stream_and_numbers_mean_one_thing",
    )


# What comes round to itself -> what is said of it.
CYCLES = {
    '[aliases]\na = "b"\nb = "a"\n': "comes round to itself: a -> b -> a",
    '[aliases]\na = "a"\n': "comes round to itself: a -> a",
    '[aliases]\na = "b"\nb = "c"\nc = "a"\n': "comes round to itself: a -> b -> c -> a",
    '[aliases]\na = "profile:p"\n[profiles.p]\ncandidates = ["a"]\n': "comes round to itself",
    '[profiles.p]\ncandidates = ["profile:p"]\n': "comes round to itself: profile:p -> profile:p",
}


async def test_long_lists_and_those_that_name_themselves_are_capped(bed: Bed, tmp_path: Path) -> None:
    for tongue in SURFACES:
        many = [f"many-{tongue.surface}-{number}" for number in range(20)]
        ghosts, itself = [f"ghost-{number}" for number in range(980)], [f"bad-{tongue.surface}"] * 1000
        for member in ("models", "fallbacks"):
            for listed, asked in ((many * 50, 5), (many + ghosts, 5), (itself, 2)):  # tries of one
                before = bed.asked()
                got = await bed.daemon.post(
                    tongue, {**asking(tongue, listed[0], stream=False), member: listed, "max_tokens": 16}
                )
                assert got.status in (400, 404, 500), got.body
                assert bed.asked() - before <= asked
                assert len(got.headers.get("x-nyuro-candidates", "").split(",")) <= 16
    for number, (cycle, said) in enumerate(CYCLES.items()):
        (config := tmp_path / f"{number}.toml").write_text(bed.daemon.config.read_text() + cycle)
        assert said in await checked(config)
        started = await launched(config, tmp_path / "state", tmp_path / "log")
        assert await started.ends() == 1
        assert said in (tmp_path / "log").read_text()
    tell(
        "B12",
        "`models` and `fallbacks` of 1,000: 20 again and again, 980 that are none, the model itself; aliases and "
        "profiles that come round to themselves",
        "a chain of 16 at most, 5 attempts at most, 2 of the model itself; such a table is refused with the way "
        "round, by `check` and at start with exit code 1",
        "test_long_lists_and_those_that_name_themselves_are_capped",
    )


async def test_nothing_in_a_body_picks_an_address_a_key_or_a_header(bed: Bed) -> None:
    steering = {
        "api_base": bed.elsewhere.root,
        "base_url": bed.elsewhere.root,
        "api_key": CALLER_KEY,
        "extra_headers": {"X-Evil": "1"},
        "headers": {"X-Evil": "1"},
        "user_config": {"base_url": bed.elsewhere.root},
        "success_callback": bed.elsewhere.root,
        "custom_host": bed.elsewhere.root,
    }
    for got in await bed.each(steering):
        assert got.status == 200
        assert not holds_canary(got.body)
    for tongue in SURFACES:
        seen = bed.provider.seen[f"ok-{tongue.surface}"][-1]
        assert "x-evil" not in seen.headers
        assert CALLER_KEY not in str(seen.headers)
    assert bed.elsewhere.opened == 0
    tell(
        "B13",
        "api_base, base_url, api_key, extra_headers, user_config, callbacks in the body",
        "the whole answer; the table's provider with its own key, and nobody else, was asked",
        "test_nothing_in_a_body_picks_an_address_a_key_or_a_header",
        "200, `ok`",
    )


async def test_an_address_in_a_body_is_not_fetched(bed: Bed) -> None:
    for address in (
        f"{bed.elsewhere.root}/a.png",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "http://[64:ff9b::7f00:1]/",
    ):
        picture = {"type": "image_url", "image_url": {"url": address}}
        turn = [{"role": "user", "content": [{"type": "text", "text": "a"}, picture]}]
        (got,) = await bed.each({"messages": turn}, CHAT)
        assert b"root:" not in got.body
        source = {"type": "image", "source": {"type": "url", "url": address}}
        await bed.each({"messages": [{"role": "user", "content": [source]}]}, MESSAGES)
        await bed.each(
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": address}]}]}, RESPONSES
        )
    await asyncio.sleep(0.05)
    assert bed.elsewhere.opened == 0
    tell(
        "B14",
        "image URLs: loopback, metadata, file:, NAT64",
        "passed to the provider, or 400; the gateway fetches none",
        "test_an_address_in_a_body_is_not_fetched",
    )


async def test_unknown_members_and_odd_tools_pass_or_are_a_400(bed: Bed) -> None:
    for got in await bed.each({"from_tomorrow": {"a": [1]}, "metadata": {"k": "v"}}):
        assert got.status == 200
    assert bed.provider.seen["ok-chat"][-1].json["from_tomorrow"] == {"a": [1]}
    for tongue in (CHAT, MESSAGES):
        for turn in ({"role": "oracle", "content": "a"}, {"role": "user", "content": [{"type": "hologram", "x": 1}]}):
            (got,) = await bed.each({"messages": [turn]}, tongue)
            assert got.status in (200, 400)
    tell(
        "B15",
        "unknown members, content types, roles",
        "passed unchanged, or 400",
        "test_unknown_members_and_odd_tools_pass_or_are_a_400",
    )
    cyclic = {"type": "object", "properties": {"a": {"$ref": "#"}}}
    tools = [{"type": "function", "function": {"name": f"f{n}", "parameters": cyclic}} for n in range(1000)]
    orphan = {"role": "tool", "tool_call_id": "none", "content": "x"}
    wild = {
        "role": "assistant",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{no"}}],
    }
    for members in ({"tools": tools}, {"messages": [orphan]}, {"messages": [wild]}):
        (got,) = await bed.each(members, CHAT)
        assert got.status in (200, 400)
    tell(
        "B16",
        "1,000 tools, cyclic schemas, arguments that are no JSON, an orphan result",
        "passed, or 400",
        "test_unknown_members_and_odd_tools_pass_or_are_a_400",
    )
