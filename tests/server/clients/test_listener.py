"""Who is let in, what stands on every answer, and that no secret leaves by any way."""

from __future__ import annotations

import asyncio
import gc
import io
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from gateway import PRINTABLE, Answer, Running, Start, chain, gateway, listener_of, provider, settles
from playbook import CHAT, MESSAGES, TONGUES, Tongue
from upstream import CUT, SILENCE, Script, ScriptedUpstream, head, plain, streamed

from proxy.app import App
from proxy.secret import Scrubber
from proxy.server import log as logging
from proxy.server.clients.connection import Connection
from proxy.server.clients.listener import Listener
from proxy.server.daemon import ADMIN_CONNECTIONS, ListenRefused
from proxy.server.starting import LEDGER, StartRefused

LOOPS = ("uvloop",)
EXCHANGES = ("lean", "plain")
both_surfaces = pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)

# -- open mode ---------------------------------------------------------------------------------------------------

HOSTS = {
    "localhost": True, "LocalHost:8080": True, "127.0.0.1": True, "127.0.0.1:99": True, "[::1]": True,
    "[::1]:8080": True,
    "example.com": False, "localhost.example.com": False, "127.0.0.1.nip.io": False, "127.0.0.2": False,
    "evil@localhost": False, "localhost/x": False, "[::2]": False, "": False, "0.0.0.0": False, "127.1": False,
}  # fmt: skip
SIGNS = {
    "Forwarded": "for=1.2.3.4", "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "a", "x-forwarded-anything": "",
    "Via": "1.1 proxy", "Origin": "http://localhost:3000",
}  # fmt: skip


def is_turned_away(answer: Answer) -> None:
    assert answer.status == 401
    error = answer.json["error"]
    assert "127.0.0.1" in error["message"]
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("host", "admitted"), HOSTS.items(), ids=HOSTS)
async def test_without_keys_only_a_host_that_means_this_machine_is_served(
    upstream: ScriptedUpstream, start: Start, host: str, admitted: bool
) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    answer = await gw.ask(CHAT, headers={"Host": host})
    if admitted:
        assert answer.status == 200
    else:
        is_turned_away(answer)
        assert upstream.opened == 0


TARGETS = {  # that name a host: the Host beside them, and what becomes of the request
    "http://localhost/v1/models": ("example.com", 200), "HTTP://localhost:99/v1/models": ("example.com", 200),
    "https://127.0.0.1/v1/models?limit=5": ("127.0.0.1", 200), "http://a:b@localhost/v1/models": ("localhost", 200),
    "http://example.com/v1/models": ("localhost", 401), "http:///v1/models": ("localhost", 400),
    "http://localhost@example.com/v1/models": ("localhost", 401), "http://localhost/healthz": ("localhost", 200),
    "http://localhost": ("localhost", 404), "http://localhost?/v1/models": ("localhost", 404),
    "http://localhost//v1/models": ("localhost", 404), "ftp://localhost/v1/models": ("localhost", 404),
}  # fmt: skip


@pytest.mark.parametrize(("target", "host", "status"), [(it, *TARGETS[it]) for it in TARGETS], ids=TARGETS)
async def test_a_target_may_name_its_host_and_then_that_host_counts(
    upstream: ScriptedUpstream, start: Start, target: str, host: str, status: int
) -> None:
    gw = await start(provider("first", upstream))
    reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert int(answer.split(b" ", 2)[1]) == status, answer


@both_surfaces
@pytest.mark.parametrize(("name", "value"), SIGNS.items(), ids=SIGNS)
async def test_without_keys_no_proxy_and_no_web_page_is_served(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, name: str, value: str
) -> None:
    gw = await start(provider("first", upstream, tongue))
    is_turned_away(await gw.ask(tongue, headers={name: value}))
    assert (await gw.get(f"{gw.base}/v1/models", {name: value})).status == 401
    assert (await gw.post("/v1/route", tongue.request(), {name: value})).status == 401
    assert upstream.opened == 0
    assert (await gw.get(f"{gw.base}/healthz", {name: value})).status == 200


async def test_without_keys_the_peer_has_to_be_this_machine(upstream: ScriptedUpstream, start: Start) -> None:
    """Whatever its Host says. A socket that a proxy opened for others shows here."""
    gw = await start(provider("first", upstream))
    assert gw.app is not None
    outer = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    address = next((str(found) for found in outer if not str(found).startswith("127.")), None)
    if address is None:
        pytest.skip("this machine has no address but loopback")
    listener = gw.app._listeners[0]
    assert listener is not None
    site = await asyncio.get_running_loop().create_server(listener, address, 0)
    try:
        base = f"http://{address}:{site.sockets[0].getsockname()[1]}"
        is_turned_away(await gw.post(CHAT.path, CHAT.request(), {"Host": "localhost"}, base=base))
    finally:
        site.close()


async def test_refused_callers_leave_no_row(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    await gw.ask(CHAT, headers={"Via": "x"})
    good = await gw.ask(CHAT)
    assert [row["request_id"] for row in await gw.rows(1)] == [good.request_id]


async def test_auth_none_serves_whoever_can_connect(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream), 'auth = "none"')
    upstream.plays(plain(CHAT.answer("ok")))
    assert (await gw.ask(CHAT, headers={"Host": "llm.example.com", "X-Forwarded-For": "10.0.0.1"})).status == 200


EXPOSED = ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080", "example.com:0"]


@pytest.mark.parametrize("address", EXPOSED)
@pytest.mark.parametrize("place", ["listen", "admin"])
async def test_an_address_that_others_reach_refuses_to_start(home: Path, place: str, address: str) -> None:
    config = home / "routes.toml"
    table = {"listen": ["127.0.0.1:0"], "admin": "127.0.0.1:0"} | {place: [address] if place == "listen" else address}
    config.write_text("[server]\n" + "".join(f"{k} = {orjson.dumps(v).decode()}\n" for k, v in table.items()))
    with pytest.raises(StartRefused, match=r"other machines, and no key has been made"):
        await App(config, env={"STATE_DIRECTORY": str(home / "state")}).start()
    assert not (home / "state" / LEDGER).exists()


async def test_a_taken_port_refuses_to_start_and_leaves_nothing_open(home: Path) -> None:
    config = home / "routes.toml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config.write_text(f'[server]\nlisten = ["127.0.0.1:{taken.getsockname()[1]}"]\nadmin = "127.0.0.1:0"\n')
        before = set(asyncio.all_tasks())
        with pytest.raises(ListenRefused, match="another process listens"):
            await App(config, env={"STATE_DIRECTORY": str(home / "state")}).start()
    assert set(asyncio.all_tasks()) == before


# -- admin -------------------------------------------------------------------------------------------------------

ADMIN = ["/admin/decisions", "/admin/decisions/req_1", "/admin/config", "/admin/providers"]
OPEN = ["/metrics", "/healthz", "/health", "/readyz"]


@pytest.fixture
async def asked(upstream: ScriptedUpstream, start: Start) -> tuple[Running, Answer]:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    answer = await gw.ask(CHAT)
    await gw.row(answer.request_id)
    return gw, answer


@pytest.mark.parametrize("path", ADMIN)
@pytest.mark.parametrize("variant", ["", "/", "?x=1", "%2f"])
async def test_admin_over_tcp_is_closed(asked: tuple[Running, Answer], path: str, variant: str) -> None:
    gw, _ = asked
    for headers in ({}, {"Host": "localhost"}, {"Authorization": "Bearer "}, {"Host": "localhost/metrics"}):
        answer = await gw.get(gw.admin + path + variant, headers)
        assert answer.status in (401, 404)
        assert b"canary" not in answer.body
    assert (await gw.get(gw.base + path)).status == 404


async def test_reload_over_tcp_is_closed(asked: tuple[Running, Answer]) -> None:
    gw, _ = asked
    answer = await gw.post("/admin/reload", {}, base=gw.admin)
    assert answer.status == 401
    assert "admin.sock" in answer.json["error"]["message"]


@pytest.mark.parametrize("path", OPEN)
async def test_metrics_and_health_are_open_on_the_admin_listener(asked: tuple[Running, Answer], path: str) -> None:
    gw, _ = asked
    assert (await gw.get(gw.admin + path)).status == 200


async def test_the_unix_socket_serves_the_admin(asked: tuple[Running, Answer]) -> None:
    gw, answered = asked
    assert (gw.state / "admin.sock").stat().st_mode & 0o777 == 0o660
    rows = (await gw.over_socket("GET", "/admin/decisions")).json["data"]
    assert [row["request_id"] for row in rows] == [answered.request_id]
    one = await gw.over_socket("GET", f"/admin/decisions/{answered.request_id}")
    assert one.json["attempts"][0]["provider"] == "first"
    assert one.json["plan"]["candidates"][0]["model"] == "first"
    config = await gw.over_socket("GET", "/admin/config")
    assert config.json["config"] == answered.headers["X-Nyuro-Config"]
    assert b"canary" not in config.body + (await gw.over_socket("GET", "/admin/providers")).body


async def test_whoever_has_an_answer_finds_its_row(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.answers(lambda _: plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream))
    for asked in range(1, 4):
        answer = await gw.ask()
        assert (await gw.over_socket("GET", f"/admin/decisions/{answer.request_id}")).status == 200
        assert len((await gw.over_socket("GET", "/admin/decisions")).json["data"]) == asked


FILTERS = {
    "model=first": 200, "limit=1": 200, "failed=true": 200, "limit=0": 400, "limit=x": 400, "nonsense=1": 400,
    "status=abc": 400, "before=x": 400, "model=%25": 200, "model='%20OR%201=1": 200,
}  # fmt: skip


@pytest.mark.parametrize(("query", "status"), FILTERS.items(), ids=FILTERS)
async def test_filters_are_checked(asked: tuple[Running, Answer], query: str, status: int) -> None:
    gw, _ = asked
    assert (await gw.over_socket("GET", f"/admin/decisions?{query}")).status == status


async def test_a_write_needs_a_json_content_type(asked: tuple[Running, Answer]) -> None:
    gw, _ = asked
    assert (await gw.over_socket("POST", "/admin/reload")).status == 415
    assert (await gw.over_socket("POST", "/admin/reload", {})).status == 200


# -- what stands on every answer ---------------------------------------------------------------------------------

OURS = ("Model", "Route-Reason", "Fallback-Used", "Candidates", "Provider", "Attempts", "Config")


async def every_answer(gw: Running, upstream: ScriptedUpstream, tongue: Tongue) -> dict[str, Answer]:
    good, stream, broken = plain(tongue.answer("ok")), streamed(tongue.stream("ok")), plain(b"{}")
    found: dict[str, Answer] = {}
    for name, script, streams in (("plain", good, False), ("stream", stream, True), ("failed", broken, False)):
        upstream.plays(script)
        found[name] = await gw.ask(tongue, "näme→", stream=streams)
    found["refused"] = await gw.ask(tongue, "closed")
    return found


@both_surfaces
async def test_our_headers_stand_on_every_answer_that_has_a_plan(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    models = {"näme→": "", **{f"long-{'x' * 90}-{number}": "" for number in range(16)}}
    table = provider("first", upstream, tongue, models=models)
    closed = '[providers.no]\ndialect = "openai-chat"\nbase_url = "http://127.0.0.1:1"\napi_key = "${CANARY_UNSET}"\n'
    gw = await start(table + closed + '[models.closed]\nprovider = "no"\n' + chain(*list(models)[1:]))
    answers = await every_answer(gw, upstream, tongue)
    upstream.plays(plain(tongue.answer("ok")))
    answers["long"] = await gw.ask(tongue, "profile:chain")
    assert [answer.status for answer in answers.values()] == [200, 200, 502, 503, 200]
    ids = {answer.request_id for answer in answers.values()}
    assert len(ids) == len(answers)
    for answer in answers.values():
        for name in OURS:
            value = answer.headers[f"X-Nyuro-{name}"]
            assert PRINTABLE.fullmatch(value) or (name == "Candidates" and value == "")
        assert ("request-id" in answer.headers) == (tongue is MESSAGES)
    assert answers["plain"].headers["X-Nyuro-Model"] == "name->"
    assert answers["failed"].headers["X-Nyuro-Model"] == "none"
    assert "+" in answers["long"].headers["X-Nyuro-Candidates"]
    assert "CANARY_UNSET" in answers["refused"].json["error"]["message"]


async def test_the_prefix_is_the_tables(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream), 'header_prefix = "X-Acme-"')
    upstream.plays(plain(CHAT.answer("ok")))
    answer = await gw.ask(CHAT, headers={"X-Acme-Key-first": "callers-own-key"})
    assert answer.headers["X-Acme-Model"] == "first"
    assert upstream.seen[0].headers["authorization"] == "Bearer callers-own-key"


async def test_a_providers_headers_pass_by_an_allow_list(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(
        plain(
            CHAT.answer("ok"), Set_Cookie="a=b", Server="secret", Via="x", X_Request_Id="theirs",
            OpenAI_Organization="o", Access_Control_Allow_Origin="*", X_Ratelimit_Remaining_Requests="9",
            X_Nyuro_Model="forged",
        )
    )  # fmt: skip
    answer = await gw.ask(CHAT)
    assert {"Set-Cookie", "Via", "Access-Control-Allow-Origin", "OpenAI-Organization"}.isdisjoint(answer.headers)
    assert answer.headers["x-ratelimit-remaining-requests"] == "9"
    assert answer.headers["x-upstream-request-id"] == "theirs"
    assert answer.headers.getall("X-Nyuro-Model") == ["first"]
    assert answer.headers.getall("X-Request-Id") == [answer.request_id]
    assert "secret" not in answer.headers.get("Server", "")


async def test_the_dry_run_calls_nobody(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    answer = await gw.post("/v1/route", CHAT.request())
    assert [pick["model"] for pick in answer.json["candidates"]] == ["first"]
    assert upstream.opened == 0


# -- secrets -----------------------------------------------------------------------------------------------------

CANARIES = ("canary-house-key-0001", "canary-callers-key", "canary-header-value", "canary-prompt", "canary-answer")


def leaks(tongue: Tongue, key: str) -> dict[str, Script]:
    """What a provider may do with a key that it was sent."""
    said = f"Bad key {key}."
    return {
        "repeats it under 401": plain(tongue.error("authentication_error", said), 401, WWW_Authenticate=key),
        "repeats it under 400": plain(tongue.error("invalid_request_error", said), 400, X_Key=key),
        "repeats it under 500": plain(f"<html>{said}</html>".encode(), 500, "text/html"),
        "repeats it before content": streamed([tongue.start, tongue.error_frame("server_error", said)]),
        "repeats it after content": streamed([*tongue.stream("some")[:-2], tongue.error_frame("server_error", said)]),
        "repeats it under 200": plain(tongue.error("server_error", said)),
        "repeats it in broken JSON": plain(f'{{"a": "{said}'.encode()),
        "repeats it in a bad head": [f"HTTP/1.1 abc {said}\r\n\r\n".encode(), SILENCE],
        "repeats it in a bad chunk": [head(200, Transfer_Encoding="chunked") + said.encode() + b"\r\n", SILENCE],
        "repeats it in a redirect": [head(302, "", Location=f"http://a/?key={key}", Content_Length=0)],
        "hangs up": [CUT],
        "answers": plain(tongue.answer("canary-answer")),
    }


@both_surfaces
async def test_no_secret_and_no_prompt_leaves_by_any_way(
    upstream: ScriptedUpstream, home: Path, tongue: Tongue
) -> None:
    stream = io.StringIO()
    sink = logging.configure(json=True, level="debug", scrubber=Scrubber(), stream=stream)
    answers: list[bytes] = []
    table = provider("first", upstream, tongue, more='headers = { "X-Secret" = "canary-header-value" }')
    try:
        async with gateway(table, home, log=sink) as gw:
            for key in CANARIES[:2]:
                own = {"X-Nyuro-Key-first": key} if key != CANARIES[0] else {}
                for name, script in leaks(tongue, key).items():
                    upstream.plays(script)
                    prompt: list[dict[str, Any]] = [{"role": "user", "content": "canary-prompt"}]
                    streams = name.endswith("content")
                    answer = await gw.ask(tongue, stream=streams, messages=prompt, headers=own)
                    if name != "answers":
                        answers.append(answer.body + str(answer.headers).encode())
                    assert gw.app is not None
                    gw.app.gateway.current.world.health._states.clear()  # nobody rests: each script is played
            answers.append((await gw.get(f"{gw.admin}/metrics")).body)
            answers.append((await gw.over_socket("GET", "/admin/config")).body)
            await gw.rows(2 * len(leaks(tongue, "")))
            files = b"".join(path.read_bytes() for path in gw.state.iterdir() if path.is_file())
    finally:
        sink.close()
    told = b"".join(answers)
    for canary in CANARIES:
        assert canary not in stream.getvalue()
        assert canary.encode() not in files
        assert canary.encode() not in told
    assert "request_done" in stream.getvalue()


async def test_every_row_of_the_ledger_is_whole(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    await asyncio.gather(*(gw.ask(CHAT) for _ in range(50)))
    rows = await gw.rows(50)
    assert len({row["request_id"] for row in rows}) == 50
    with closing(sqlite3.connect(gw.state / LEDGER)) as ledger:
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_of_too_many_connections_an_idle_one_goes_and_nobody_who_is_served(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream))
    assert gw.app is not None
    listener = gw.app._listeners[0]
    assert isinstance(listener, Listener)
    listener.most = 2
    go_on = asyncio.Event()
    upstream.plays([go_on, *plain(CHAT.answer("served"))])
    served, idle = await gw.connect(), await gw.connect()
    await served.request(CHAT, CHAT.request())
    await upstream.asked()
    third = await gw.connect()
    assert await idle.rest() == b""
    await third.request(CHAT, CHAT.request())
    await upstream.asked(2)
    fourth = await gw.connect()
    assert await fourth.rest() == b""
    go_on.set()
    for client in (served, third):
        assert (await client.answer())[0] == 200
    assert listener.turned_away == 2


async def test_the_admin_listener_answers_beside_thousands_of_idle_connections(start: Start) -> None:
    """In small: of more than its share the idle ones go."""
    gw = await start("")
    assert gw.app is not None
    admins = gw.app._listeners[1]
    assert isinstance(admins, Listener)
    port = int(gw.app.admin_addresses[0].rpartition(":")[2])
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(ADMIN_CONNECTIONS + 9)]
    assert (await gw.get(f"http://127.0.0.1:{port}/metrics")).status == 200
    assert len(admins.connections) <= ADMIN_CONNECTIONS
    assert admins.turned_away >= 9
    for _, writer in idle:
        writer.close()


async def test_a_path_for_clients_is_no_question_of_a_base_url_on_the_admin_listener(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream))
    told = {base: (await gw.get(f"{base}/nothing/of/ours")).json["error"]["message"] for base in (gw.base, gw.admin)}
    assert "base URL" in told[gw.base]
    assert "base URL" not in told[gw.admin]
    assert "listen" in told[gw.admin]


async def test_no_look_at_connections_keeps_one_that_has_ended(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream), 'header_timeout = "200ms"')
    upstream.plays(plain(CHAT.answer("ok")))
    listener, looks = listener_of(gw), list[bool]()
    look = Listener._close_slower

    def noted(self: Listener, limit: float) -> None:
        look(self, limit)
        if self is listener:
            looks.append(bool(self.connections))

    monkeypatch.setattr(Listener, "_close_slower", noted)
    client = await gw.connect()
    await client.request(CHAT, CHAT.request("first"))
    await client.until(b"ok")
    await settles(lambda: True in looks)
    client.leave()
    await settles(lambda: not listener.connections)
    gc.collect()
    assert not [it for it in gc.get_objects() if isinstance(it, Connection) and it._listener is listener]
