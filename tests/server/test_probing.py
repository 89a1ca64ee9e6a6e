"""Providers are asked whether they are well, over loopback; what follows is in force when a probe returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from gateway import Running, gateway, refused_port, settles
from playbook import CHAT
from structlog.testing import capture_logs
from upstream import CUT, SILENCE, Connection, Script, ScriptedUpstream, plain, within

from proxy.server import probing as module
from proxy.server.probing import AT_ONCE, FAILS, Probing, Target, targets

LOOPS = ("uvloop",)
KEY = "canary-house-key-0001"
BLOCK = """
[providers.{name}]
dialects = ["{dialect}"]
base_url = "{root}"
api_keys = ["{key}"]
probe = "1h"
{more}
[models.{name}]
provider = "{name}"
"""


def block(root: str, name: str = "p", *, dialect: str = "openai-chat", more: str = "") -> str:
    return BLOCK.format(name=name, root=root, dialect=dialect, key=KEY, more=more)


def listing() -> Script:
    return plain({"object": "list", "data": []})


@asynccontextmanager
async def running(
    table: str, home: Path, monkeypatch: pytest.MonkeyPatch, server: str = ""
) -> AsyncIterator[tuple[Running, Probing, Target]]:
    """With no probe but the test's own."""

    async def still(self: Probing) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(Probing, "run", still)
        async with gateway(table, home, server=server) as served:
            assert served.app is not None
            probing = served.app.probing
            yield served, probing, next(targets(probing.current().table))


async def metrics(served: Running) -> str:
    return (await served.get(f"{served.admin}/metrics")).body.decode()


async def state(served: Running, model: str = "p") -> str:
    return str((await served.get(f"{served.base}/v1/models/{model}")).json["state"])


async def told(served: Running, name: str = "p") -> dict[str, Any]:
    providers = (await served.over_socket("GET", "/admin/providers")).json["data"]
    found: dict[str, Any] = next(one for one in providers if one["name"] == name)["probe"]
    return found


# -- what is asked -----------------------------------------------------------------------------------------------

ASKED = {
    "OpenAI's list": ("openai-chat", "/v1", "", "/v1/models", "authorization"),
    "Anthropic's list": ("anthropic", "", "", "/v1/models?limit=1000", "x-api-key"),
    "Gemini's list": ("gemini", "", "", "/v1beta/models", "x-goog-api-key"),
    "Ollama's list": ("ollama", "/v1", "", "/api/tags", "authorization"),
    "a path, from the host on": ("openai-chat", "/deep/v1", 'probe_path = "/health?full=1"', "/health?full=1", "host"),
}


@pytest.mark.parametrize(("dialect", "suffix", "more", "path", "header"), ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("exchange", ["lean", "plain"])
async def test_a_get_with_the_houses_key(
    upstream: ScriptedUpstream,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    exchange: str,
    dialect: str,
    suffix: str,
    more: str,
    path: str,
    header: str,
) -> None:
    table = block(upstream.root + suffix, dialect=dialect, more=more)
    async with running(table, home, monkeypatch, f'exchange = "{exchange}"') as (_, it, target):
        upstream.plays(listing())
        assert (await it.probe(target)).state == "well"
    (seen,) = upstream.seen
    assert (seen.method, seen.path, seen.body) == ("GET", path, b"")
    assert header in seen.headers
    assert KEY in str(seen.headers)
    assert "x-pointsman-hops" in seen.headers


UNASKED = {
    "no probe": 'api_key = "none"',
    "switched off": 'api_key = "none"\nprobe = "off"',
    "disabled": 'api_key = "none"\nprobe = "1s"\nenabled = false',
    "without its key": 'api_key = "${A_VARIABLE_THAT_IS_NOT_SET}"\nprobe = "1s"',
}


@pytest.mark.parametrize("lines", UNASKED.values(), ids=UNASKED)
async def test_who_is_not_asked(home: Path, lines: str) -> None:
    table = f'[providers.p]\ndialects = ["openai-chat"]\nbase_url = "http://127.0.0.1:9/v1"\n{lines}\n'
    async with gateway(table, home) as served:
        assert served.app is not None
        assert list(targets(served.app.probing.current().table)) == []
        assert await told(served) is None


# -- what follows ------------------------------------------------------------------------------------------------

DOWN: dict[str, tuple[Script, str]] = {
    "a connection that is closed": ([CUT], "bad_upstream_response"),
    "an answer that does not come": ([SILENCE], "upstream_timeout"),
    "503": (plain({"status": "loading model"}, 503), "upstream_failed"),
    "a page": (plain(b"<html>Log in</html>", content_type="text/html"), "upstream_failed"),
}


@pytest.mark.parametrize(("script", "code"), DOWN.values(), ids=DOWN)
async def test_the_second_failure_rests_the_provider_and_a_success_ends_that(
    upstream: ScriptedUpstream,
    second: ScriptedUpstream,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
    code: str,
) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.3)
    table = block(upstream.root + "/v1") + block(second.root + "/v1", "q", more='models = ["q-*"]')
    table += '[profiles.both]\ncandidates = ["p", "q"]\n'
    async with running(table, home, monkeypatch) as (served, it, target):
        assert (await told(served))["state"] == "unknown"
        upstream.plays(script)
        with capture_logs() as logs:
            await it.probe(target)
            assert await state(served) == "ready"
            assert 'pointsman_probe_up{provider="p"} 0' in await metrics(served)
            await it.probe(target)
            await it.probe(target)
        assert await state(served) == "cooling"
        assert [(line["provider"], line["outcome"]) for line in logs if line["event"] == "provider_down"] == [
            ("p", code)
        ]
        assert 'pointsman_cooldown_seconds{provider="p",model="none",credential="none"}' in await metrics(served)
        found = await told(served)
        assert (found["state"], found["failures"]) == ("failing", FAILS + 1)
        assert found["detail"].startswith(code)
        second.plays(plain(CHAT.answer("from the other")))
        asked = len(upstream.seen)
        answer = await served.ask(model="profile:both")
        assert CHAT.read_text(answer.json) == "from the other"
        assert len(upstream.seen) == asked

        upstream.plays(listing(), plain(CHAT.answer("back")))
        with capture_logs() as logs:
            await it.probe(target)
        assert [line["event"] for line in logs if line["event"] == "provider_back"] == ["provider_back"]
        assert await state(served) == "ready"
        assert 'pointsman_probe_up{provider="p"} 1' in await metrics(served)
        assert CHAT.read_text((await served.ask(model="profile:both")).json) == "back"


async def test_a_candidate_that_nobody_answered_for_comes_back_by_a_probe(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = refused_port()
    async with running(block(f"http://127.0.0.1:{port}/v1"), home, monkeypatch) as (served, it, target):
        for _ in range(3):
            await served.ask(model="p")
        assert await state(served) == "cooling"
        upstream.plays(listing(), plain(CHAT.answer("back")))
        server = await asyncio.get_running_loop().create_server(lambda: Connection(upstream), "127.0.0.1", port)
        await it.probe(target)
        assert await state(served) == "ready"
        assert CHAT.read_text((await served.ask(model="p")).json) == "back"
        server.close()


UNCLEAR = {"a key that is refused": 401, "a path that is none": 404, "somewhere else": 302, "too many": 429}


@pytest.mark.parametrize("status", UNCLEAR.values(), ids=UNCLEAR)
async def test_what_is_unclear_rests_nobody_and_ends_a_rest_by_probes(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    async with running(block(upstream.root + "/v1"), home, monkeypatch) as (served, it, target):
        upstream.plays(plain({}, 500), plain({}, 500), plain({}, status, Location="http://127.0.0.1:9/"))
        for _ in range(FAILS):
            await it.probe(target)
        assert await state(served) == "cooling"
        with capture_logs() as logs:
            for _ in range(3):
                assert (await it.probe(target)).state == "unclear"
        assert [line["event"] for line in logs] == ["probe_unclear", "provider_back"]
        assert await state(served) == "ready"
        assert len(upstream.seen) == 5


async def test_a_provider_whose_connections_are_all_in_use_is_not_judged(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = block(upstream.root + "/v1", more="connections = 1")
    async with running(table, home, monkeypatch) as (served, it, target):
        upstream.plays([SILENCE])
        asking = asyncio.ensure_future(served.ask(model="p"))
        await upstream.asked()
        assert (await it.probe(target)).state == "unknown"
        assert len(upstream.seen) == 1
        asking.cancel()


async def test_no_key_is_told_anywhere(upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(block(upstream.root + "/v1"), home, monkeypatch) as (served, it, target):
        upstream.plays(plain({"error": f"bad key {KEY}"}, 500, X_Request_Id=KEY))
        with capture_logs() as logs:
            for _ in range(FAILS):
                await it.probe(target)
        providers = (await served.over_socket("GET", "/admin/providers")).body
        assert KEY not in str(logs) + providers.decode() + await metrics(served)


# -- reloads -----------------------------------------------------------------------------------------------------


async def reload(served: Running, table: str) -> None:
    assert served.app is not None
    text = served.config.read_text()
    served.config.write_text(text[: text.index("[providers.")] + table)
    assert (await served.app.reloader.reload())[0]


async def test_what_was_found_outlives_a_reload_and_ends_with_the_probe(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = block(upstream.root + "/v1")
    async with running(table, home, monkeypatch) as (served, it, target):
        upstream.plays(plain({}, 500))
        for _ in range(FAILS):
            await it.probe(target)
        await reload(served, table + '[aliases]\nhouse = "p"\n')
        assert await state(served) == "cooling"
        assert (await told(served))["failures"] == FAILS
        await reload(served, table.replace('probe = "1h"\n', ""))
        assert await state(served) == "ready"
        assert (await it.probe(target)).state == "unknown"
        assert len(upstream.seen) == FAILS


# -- the tasks ---------------------------------------------------------------------------------------------------


async def test_the_second_question_follows_soon_and_the_next_ones_at_their_interval(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(block(upstream.root + "/v1"), home, monkeypatch) as (_, it, target):
        upstream.plays(listing(), plain({}, 500), plain({}, 500), plain({}, 500), listing())
        pauses: list[float] = []
        over = asyncio.Event()

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) > 5:
                over.set()
                await asyncio.Event().wait()

        it.pause, it.dice = pause, lambda: 0.5
        watching = asyncio.ensure_future(it._watch(target))
        await within(over)
        watching.cancel()
    assert pauses == [0.5, 3600.0, 1.0, 3600.0, 3600.0, 3600.0]


async def test_the_process_asks_by_itself_and_asks_whoever_a_reload_brings(
    upstream: ScriptedUpstream, second: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.0)
    upstream.plays(listing())
    second.plays([SILENCE])
    async with gateway(block(upstream.root + "/v1"), home) as served:
        await upstream.asked()
        await reload(served, block(second.root + "/v1", "q"))
        hanging = await second.asked()
        assert served.app is not None
        assert (await served.get(f"{served.base}/healthz")).status == 200
    await within(hanging.gone)
    assert len(upstream.seen) == 1


async def test_only_so_many_are_under_way(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.0)
    many = AT_ONCE + 4
    async with gateway("".join(block(upstream.root + "/v1", f"p{n}") for n in range(many)), home) as served:
        gate = asyncio.Event()
        upstream.plays([gate, *listing()])
        assert served.app is not None
        await upstream.until(lambda it: len(it.seen) >= AT_ONCE)
        assert (await served.get(f"{served.base}/healthz")).status == 200
        assert len(upstream.seen) == AT_ONCE
        gate.set()
        await upstream.asked(many)
        await settles(lambda: served.app is not None and len(served.app.probing.up()) == many)
