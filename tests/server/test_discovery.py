"""Providers are asked which models they have, over loopback; what they say is in force when a poll returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from each import each
from gateway import Running, gateway, refused_port
from playbook import CHAT, chunk
from structlog.testing import capture_logs
from upstream import CUT, SILENCE, Reached, Script, ScriptedUpstream, Seen, head, plain, streamed, within

from proxy.catalog.roster import PATIENCE
from proxy.dialects import DIALECTS
from proxy.dialects.dialect import Voice
from proxy.ir import Usage
from proxy.routing.names import Candidate
from proxy.server import discovery as module
from proxy.server import inquiry
from proxy.server.call import Call
from proxy.server.discovery import Discovery, Place, Watched, places
from proxy.server.gateway import tokens_per_s
from proxy.server.ledger import Attempt
from proxy.streams import Passthrough

LOOPS = ("asyncio", "uvloop")
LOCAL = """
[providers.{name}]
dialects = ["openai-chat"]
base_url = "{root}"
api_key = "none"
local = true
discover = "1h"
{more}
"""
ELSEWHERE = """
[providers.vendor]
dialects = ["{dialect}"]
base_url = "{root}"
api_keys = ["canary-house-key-0001"]
discover = "1h"
headers = {{ "X-Team" = "canary-team" }}
"""


def local(upstream: ScriptedUpstream, name: str = "vllm", suffix: str = "/v1", more: str = "") -> str:
    return LOCAL.format(name=name, root=upstream.root + suffix, more=more)


def openai(*names: str, **more: Any) -> Script:
    return plain({"object": "list", "data": [{"id": name, "object": "model", **more} for name in names]})


def tags(*names: str, **more: Any) -> Script:
    return plain({"models": [{"name": name, "digest": name, **more} for name in names]})


def by_path(scripts: dict[str, Script]) -> Callable[[Seen], Script]:
    return lambda seen: scripts.get(seen.path, plain({"error": "not found"}, status=404))


@contextmanager
def unasked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No poll but the test's own."""

    async def still(self: Discovery) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(Discovery, "run", still)
        yield


@asynccontextmanager
async def running(table: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Running, Discovery]]:
    with unasked(monkeypatch):
        async with gateway(table, home) as served:
            assert served.app is not None
            yield served, served.app.discovery


async def listed(served: Running, *states: str) -> set[str]:
    answer = await served.get(f"{served.base}/v1/models")
    return {entry["id"] for entry in answer.json["data"] if entry["state"] in (states or ("ready",))} - {"auto"}


async def shown(served: Running, name: str) -> dict[str, Any]:
    answer = await served.get(f"{served.base}/v1/models/{name}")
    found: dict[str, Any] = answer.json
    return found


async def metric(served: Running, line: str) -> float:
    text = (await served.get(f"{served.admin}/metrics")).body.decode()
    values = [row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(line)]
    return float(values[0]) if values else 0.0


# -- what is asked -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "/v1"], ids=["root", "with /v1"])
async def test_a_local_server_is_asked_at_its_list_whatever_its_base_url_ends_in(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    upstream.plays(openai("Qwen/Qwen3-8B", max_model_len=40960))
    async with running(local(upstream, suffix=suffix), home, monkeypatch) as (served, discovery):
        assert await discovery.poll("vllm")
        assert [(seen.method, seen.path, seen.body) for seen in upstream.seen] == [("GET", "/v1/models", b"")]
        assert "content-length" not in upstream.seen[0].headers
        entry = await shown(served, "Qwen/Qwen3-8B")
    assert entry["context_length"] == 40_960
    assert entry["capabilities"] == ["code", "json", "parallel_tools", "reasoning", "thinking", "tools"]
    assert (entry["state"], entry["local"], entry["price_source"]) == ("ready", True, "local")


@pytest.mark.parametrize("suffix", ["", "/v1"], ids=["root", "with /v1"])
async def test_ollama_is_asked_for_its_own_list_and_for_what_that_leaves_out(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    show = {"capabilities": ["completion", "tools"], "model_info": {"qwen2.context_length": 32768}}
    upstream.answers(by_path({"/api/tags": tags("qwen2.5-coder:7b"), "/api/show": plain(show)}))
    async with running(local(upstream, "ollama", suffix), home, monkeypatch) as (served, discovery):
        assert await discovery.poll("ollama")
        assert await discovery.poll("ollama")
        assert [seen.path for seen in upstream.seen] == ["/api/tags", "/api/show", "/api/tags"]
        assert upstream.seen[1].json == {"model": "qwen2.5-coder:7b"}
        entry = await shown(served, "qwen2.5-coder")
    assert (entry["id"], entry["context_length"]) == ("qwen2.5-coder:7b", 32_768)
    assert entry["capabilities"] == ["code", "json", "tools"]


async def test_a_model_that_ollama_cannot_describe_is_listed_all_the_same(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.answers(by_path({"/api/tags": tags("qwen3:8b"), "/api/show": plain({"error": "broken"}, status=500)}))
    async with running(local(upstream, "ollama"), home, monkeypatch) as (served, discovery):
        assert await discovery.poll("ollama")
        assert await listed(served) == {"qwen3:8b"}
        assert await metric(served, 'pointsman_probes_failed_total{provider="ollama"}') == 1


async def test_descriptions_that_hang_cost_the_list_nothing(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.answers(by_path({"/api/tags": tags("qwen3:8b"), "/api/show": [SILENCE]}))
    async with running(local(upstream, "ollama"), home, monkeypatch) as (served, discovery):
        discovery.deadline = 0.2
        assert await discovery.poll("ollama")
        assert await listed(served) == {"qwen3:8b"}


async def test_what_is_called_ollama_and_is_not_is_asked_as_openai(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.answers(by_path({"/v1/models": openai("local-model")}))
    async with running(local(upstream, "ollama"), home, monkeypatch) as (served, discovery):
        assert await discovery.poll("ollama")
        assert await listed(served) == {"local-model"}


@pytest.mark.parametrize(
    ("dialect", "suffix", "path", "credential"),
    [
        ("openai-chat", "/v1", "/v1/models", ("authorization", "Bearer canary-house-key-0001")),
        ("anthropic", "", "/v1/models?limit=1000", ("x-api-key", "canary-house-key-0001")),
    ],
    ids=["openai", "anthropic"],
)
async def test_a_vendor_is_asked_with_the_house_key(
    upstream: ScriptedUpstream,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    dialect: str,
    suffix: str,
    path: str,
    credential: tuple[str, str],
) -> None:
    upstream.plays(openai("new-model"))
    table = ELSEWHERE.format(dialect=dialect, root=upstream.root + suffix)
    async with running(table, home, monkeypatch) as (served, discovery):
        assert await discovery.poll("vendor")
        seen = await upstream.asked()
        assert await listed(served) == {"new-model"}
    assert seen.path == path
    assert seen.headers["x-team"] == "canary-team"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers[credential[0]] == credential[1]


# -- what it changes ---------------------------------------------------------------------------------------------


async def test_a_new_model_is_routable_without_a_restart_and_by_strategy(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(local(upstream), home, monkeypatch) as (served, discovery):
        assert (await served.ask(model="qwen3")).status == 404
        upstream.plays(openai("qwen3", "nomic-embed-text"), plain(CHAT.answer("here")))
        assert await discovery.poll("vllm")
        for model in ("qwen3", "strategy:local", "auto", "vllm/qwen3"):
            answer = await served.ask(model=model)
            assert (answer.status, upstream.seen[-1].json["model"]) == (200, "qwen3")
        assert answer.headers["X-Nyuro-Model"] == "vllm/qwen3"


async def test_the_table_in_force_keeps_its_connections_when_a_list_changes(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.plays(openai("a"), openai("a", "b"), openai("a", "b"))
    async with running(local(upstream), home, monkeypatch) as (_, discovery):
        before = discovery.current()
        await discovery.poll("vllm")
        await discovery.poll("vllm")
        changed = discovery.current()
        assert changed is not before
        assert changed.upstreams["vllm"] is before.upstreams["vllm"]
        await discovery.poll("vllm")
        assert discovery.current() is changed  # nothing new: nothing built
        assert upstream.opened == 1
        assert before.users == changed.users == 0


async def test_who_left_the_list_is_gone_then_forgotten_and_may_return(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(local(upstream), home, monkeypatch) as (served, discovery):
        upstream.plays(openai("stays", "leaves"), openai("stays"))
        await discovery.poll("vllm")
        await discovery.poll("vllm")
        assert await listed(served) == {"stays"}
        assert (await shown(served, "leaves"))["state"] == "gone"
        assert await listed(served, "gone") == {"leaves"}
        for_anthropic = await served.get(f"{served.base}/v1/models", {"anthropic-version": "2023-06-01"})
        assert "leaves" not in [entry["id"] for entry in for_anthropic.json["data"]]
        refused = await served.ask(model="leaves")
        assert (refused.status, refused.json["error"]["code"]) == (404, "model_not_found")
        assert "its provider does not list it" in refused.json["error"]["message"]

        upstream.plays(openai("stays", "leaves"), openai("stays"))
        await discovery.poll("vllm")
        assert (await shown(served, "leaves"))["state"] == "ready"
        for _ in range(PATIENCE + 1):
            await discovery.poll("vllm")
        assert (await served.get(f"{served.base}/v1/models/leaves")).status == 404


FAILURES: dict[str, Script] = {
    "a status": plain({"error": {"message": "no"}}, status=500),
    "a refused key": plain({"error": {"message": "no"}}, status=401),
    "a redirect": plain({}, status=302, Location="http://127.0.0.1:9/"),
    "a page": plain(b"<html></html>", content_type="text/html"),
    "broken JSON": plain(b'{"data": [{"id": "a"'),
    "no list": plain({"data": {"a": 1}}),
    "nothing at either place": plain({}, status=404),
    "cut off": [head(200, Content_Length=100) + b'{"data": [', CUT],
    "hung up": [CUT],
    "silence": [SILENCE],
    "too much": plain(b'{"data": []}' + b" " * inquiry.LARGEST),
}


@pytest.mark.parametrize("script", FAILURES.values(), ids=FAILURES)
async def test_nothing_is_lost_when_a_poll_fails(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    async with running(local(upstream), home, monkeypatch) as (served, discovery):
        upstream.plays(openai("a", "b"))
        assert await discovery.poll("vllm")
        standing = discovery.current()
        upstream.plays(script)
        discovery.deadline = 0.2 if script == [SILENCE] else 10.0
        with capture_logs() as logs:
            assert not await discovery.poll("vllm")
            assert not await discovery.poll("vllm")
        assert discovery.current() is standing
        assert await listed(served) == {"a", "b"}
        assert await metric(served, 'pointsman_probes_failed_total{provider="vllm"}') == 2
        told = [line for line in logs if line["event"] == "discovery_failed"]
        assert [(line["provider"], line["kept"]) for line in told] == [("vllm", 2)]

        upstream.plays(openai("a", "b"))
        with capture_logs() as logs:
            assert await discovery.poll("vllm")
            assert await discovery.poll("vllm")
        assert [line["event"] for line in logs if line["event"].startswith("disc")] == ["discovery_recovered"]


async def test_a_change_is_told_in_one_line(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.plays(openai("a", "b"), openai("b", "c"), openai("b", "c"))
    async with running(local(upstream), home, monkeypatch) as (_, discovery):
        with capture_logs() as logs:
            for _ in range(3):
                await discovery.poll("vllm")
    told = [line for line in logs if line["event"] == "models_discovered"]
    assert [(line["models"], line["added"], line["gone"]) for line in told] == [
        (2, ["a", "b"], []),
        (2, ["c"], ["a"]),
    ]


SHIPPED = """
[models."llama3.1"]
provider = "ollama"
[models."qwen2.5-coder"]
provider = "ollama"
"""


async def test_table_models_of_ollama_go_by_what_is_installed(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = local(upstream, "ollama") + SHIPPED
    full = {"capabilities": ["completion", "tools"]}
    async with running(table, home, monkeypatch) as (served, discovery):
        assert await listed(served) == {"llama3.1", "qwen2.5-coder"}  # nobody was asked yet: the table's word stands
        upstream.plays(tags("llama3.1:8b", **full), plain(CHAT.answer("here")))
        await discovery.poll("ollama")
        assert await listed(served) == {"llama3.1", "llama3.1:8b"}
        assert (await shown(served, "qwen2.5-coder"))["state"] == "gone"
        assert (await served.ask(model="llama3.1")).status == 200
        assert upstream.seen[-1].json["model"] == "llama3.1:8b"
        assert (await served.ask(model="qwen2.5-coder")).status == 404

        upstream.plays(tags(), plain(CHAT.answer("here")))
        await discovery.poll("ollama")
        assert await listed(served) == set()


# -- reloads -----------------------------------------------------------------------------------------------------


async def reload(served: Running, table: str) -> None:
    assert served.app is not None
    text = served.config.read_text()
    served.config.write_text(text[: text.index("[providers.")] + table)
    assert (await served.app.reloader.reload())[0]


async def test_a_reload_keeps_what_was_discovered(
    upstream: ScriptedUpstream, second: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.plays(openai("a"))
    second.plays(openai("z"))
    table = local(upstream) + local(second, "other")
    async with running(table, home, monkeypatch) as (served, discovery):
        await discovery.poll("vllm")
        await discovery.poll("other")
        await reload(served, table + '[aliases]\nhouse = "vllm/a"\n')
        assert await listed(served) == {"a", "z", "house"}
        await reload(served, local(upstream) + LOCAL.format(name="other", root="http://127.0.0.1:9/v1", more=""))
        assert await listed(served) == {"a"}  # the other one has moved
        await reload(served, table)
        assert await listed(served) == {"a"}  # and was forgotten
        await reload(served, local(upstream, more="enabled = false") + local(second, "other"))
        assert await listed(served) == set()
        assert discovery.models(discovery.current().table) == []


async def test_connections_close_after_the_last_request_whatever_was_discovered_meanwhile(
    upstream: ScriptedUpstream, second: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request runs on the first of three snapshots; the third no longer names its provider."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    answer = plain(CHAT.answer("late"))[0]
    assert isinstance(answer, bytes)
    upstream.plays([answer[:40], Reached(reached), go_on, answer[40:]])
    second.plays(openai("z"))
    first = local(upstream, "first") + '[models.m]\nprovider = "first"\n'
    async with running(first + local(second, "other"), home, monkeypatch) as (served, discovery):
        assert served.app is not None
        asking = asyncio.ensure_future(served.ask(model="m"))
        await within(reached)
        await discovery.poll("other")
        await reload(served, local(second, "other"))
        await served.app.reloader.builder.pool.sweep()
        go_on.set()
        answered = await asking
        assert answered.status == 200
        await served.app.reloader.builder.pool.sweep()
        await upstream.until(lambda it: not it.open)


# -- the tasks ---------------------------------------------------------------------------------------------------


async def test_the_process_asks_by_itself_and_asks_whoever_a_reload_brings(
    upstream: ScriptedUpstream, second: ScriptedUpstream, home: Path
) -> None:
    upstream.plays(openai("a"))
    second.plays(openai("z"))
    async with gateway(local(upstream), home) as served:
        await upstream.asked()
        await reload(served, local(second, "other"))
        await second.asked()
    assert len(upstream.seen) == 1


async def test_a_poll_that_hangs_holds_up_nobody_and_ends_with_the_process(
    upstream: ScriptedUpstream, second: ScriptedUpstream, home: Path
) -> None:
    upstream.plays([SILENCE])
    second.plays(openai("z"))
    async with gateway(local(upstream) + local(second, "other"), home):
        hanging = await upstream.asked()
        await second.asked()
    await within(hanging.gone)


async def test_a_gateway_that_is_its_own_provider_is_told_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = LOCAL.format(name="mirror", root="http://127.0.0.1:9/v1", more="")
    async with running(table, home, monkeypatch) as (served, discovery):
        await reload(served, LOCAL.format(name="mirror", root=served.base, more=""))
        with capture_logs() as logs:
            assert not await discovery.poll("mirror")
    (line,) = [line for line in logs if line["event"] == "discovery_failed"]
    assert line["detail"] == "status 508"


async def test_nobody_there_is_a_failed_poll(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = LOCAL.format(name="vllm", root=f"http://127.0.0.1:{refused_port()}/v1", more="")
    async with running(table, home, monkeypatch) as (_, discovery):
        with capture_logs() as logs:
            assert not await discovery.poll("vllm")
        assert not await discovery.poll("nobody")
    assert [line["outcome"] for line in logs if line["event"] == "discovery_failed"] == ["upstream_unreachable"]


UNASKED = {
    "no discover": 'api_key = "none"',
    "switched off": 'api_key = "none"\ndiscover = "off"',
    "disabled": 'api_key = "none"\ndiscover = "1s"\nenabled = false',
    "without its key": 'api_key = "${A_VARIABLE_THAT_IS_NOT_SET}"\ndiscover = "1s"',
}


@pytest.mark.parametrize("lines", UNASKED.values(), ids=UNASKED)
async def test_who_is_not_asked(home: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    table = f'[providers.p]\ndialects = ["openai-chat"]\nbase_url = "http://127.0.0.1:9/v1"\n{lines}\n'
    async with running(table, home, monkeypatch) as (_, discovery):
        assert list(places(discovery.current().table)) == []


PAUSES = {
    "while all is well": (30.0, 0, 30.0),
    "after a failure": (30.0, 1, 60.0),
    "after many": (30.0, 9, module.LONGEST),
    "an interval above the bound stays": (300.0, 9, 300.0),
}


@pytest.mark.parametrize(("interval", "failures", "wait"), PAUSES.values(), ids=PAUSES)
async def test_failures_make_the_polls_rarer(
    home: Path, monkeypatch: pytest.MonkeyPatch, interval: float, failures: int, wait: float
) -> None:
    table = LOCAL.format(name="p", root="http://127.0.0.1:9/v1", more="")
    async with running(table, home, monkeypatch) as (_, discovery):
        discovery._watched["p"] = Watched("", failures=failures)
        place = Place("p", "", interval)
        discovery.dice = lambda: 0.5
        assert discovery._pause(place) == pytest.approx(wait)
        discovery.dice = lambda: 0.0
        assert discovery._pause(place) == pytest.approx(wait * (1 - module.JITTER))


# -- tokens per second -------------------------------------------------------------------------------------------


def ended(*frames: bytes) -> Passthrough:
    stream = Passthrough(DIALECTS["openai-chat"], Voice("req_1", "m", 1))
    stream.feed(b"".join(frames))
    return stream


WHOLE = CHAT.stream("Hel", "lo")
PACES: dict[str, tuple[Passthrough | None, int | None, int, float | None]] = {
    "a stream that ended": (ended(*WHOLE), 101, 2_500, 50.0),
    "one that was cut": (ended(*WHOLE[:-2]), 101, 2_500, None),
    "one that failed": (ended(*WHOLE[:2], CHAT.error_frame("server_error", "no")), 101, 2_500, None),
    "one whose tokens nobody counted": (ended(*WHOLE), None, 2_500, None),
    "one token has no pace": (ended(*WHOLE), 1, 2_500, None),
    "all at once has none either": (ended(*WHOLE), 101, 500, None),
    "a plain answer": (None, 101, 2_500, None),
}


@each(("stream", "tokens", "duration_ms", "pace"), PACES.values(), ids=PACES)
def test_a_pace_is_that_of_the_tokens_after_the_first(
    stream: Passthrough | None, tokens: int | None, duration_ms: int, pace: float | None
) -> None:
    attempt = Attempt(1, "m", "p", "m", 0, duration_ms=duration_ms, ttfb_ms=500, usage=Usage(output=tokens))
    assert tokens_per_s(stream, attempt) == pace


async def test_what_was_observed_stands_in_the_catalog_and_outlives_a_poll(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.plays(openai("a"), openai("a", "b"))
    async with running(local(upstream), home, monkeypatch) as (served, discovery):
        await discovery.poll("vllm")
        assert (await shown(served, "a"))["tokens_per_s"] is None
        latencies, candidate = discovery.current().world.latencies, Candidate("a", "vllm", "a")
        for ttft_ms, pace in ((100.0, 40.0), (300.0, 60.0)):
            latencies.observe(candidate, ttft_ms, 0.0)
            latencies.observe_rate(candidate, pace)
        await discovery.poll("vllm")
        entry = await shown(served, "a")
    assert entry["ttft_ms"] == {"p50": 300, "p95": 300}
    assert entry["tokens_per_s"] == 50.0


async def test_a_stream_through_the_gateway_is_observed(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = chunk(None, usage={"prompt_tokens": 7, "completion_tokens": 101, "total_tokens": 108})
    upstream.plays(streamed([*WHOLE[:-1], usage, WHOLE[-1]]))
    with monkeypatch.context() as patched:
        clock = count(0, 40)  # each look at the clock finds it 40 ms on
        patched.setattr(Call, "elapsed_ms", lambda call: next(clock))
        async with running(local(upstream, more='models = ["m"]'), home, monkeypatch) as (served, discovery):
            assert (await served.ask(model="m", stream=True)).status == 200
            await served.rows()
            seen = discovery.current().world.latencies.get("vllm", "m")
    assert seen is not None
    assert seen.tokens_per_s
