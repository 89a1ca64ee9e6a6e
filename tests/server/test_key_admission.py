"""Who is let in, on every path there is."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from gateway import RawClient, Running, Start, provider, settles, whole
from keyed import Made, make
from playbook import CHAT, MESSAGES, TONGUES, Tongue
from upstream import ScriptedUpstream, plain

from proxy.accounts.admission import HOW_TO
from proxy.accounts.keys import SCOPES
from proxy.app import App
from proxy.routing.problems import TableRejected
from proxy.server import admin, endpoints
from proxy.server.byok.admin import VaultAdmin
from proxy.server.clients.listener import WARMING
from proxy.server.keys.admin import KeyAdmin
from proxy.server.keys.store import KeyStore
from proxy.server.starting import StartRefused

LIVE = frozenset({"/healthz", "/health", "/readyz", "/metrics"})  # open to whoever reaches the listener
nobody = cast(Any, None)
DATA = endpoints.data_paths(nobody)
ADMIN = admin.Admin(
    nobody, nobody, nobody, nobody, KeyAdmin(nobody, nobody), VaultAdmin(nobody, nobody), nobody
).paths()


def error_code(tongue: Tongue, body: dict[str, Any]) -> str:
    error = body["error"]
    return str(error["code"] if tongue is CHAT else error["details"]["error_code"])


# -- the key of a request ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
async def test_a_key_opens_in_either_header_and_reaches_no_provider(
    tongue: Tongue, start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(tongue.answer("Hello.")))
    gw = await start(provider("first", upstream, tongue))
    key = await make(gw)
    for headers in (key.bearer, {"x-api-key": key.whole}, {**key.bearer, "x-api-key": "sk-foreign"}):
        assert (await gw.ask(tongue, headers=headers)).status == 200
    assert key.whole not in "".join(str(seen.raw) for seen in upstream.seen)
    assert {(row["key_id"], row["project"]) for row in await gw.rows(3)} == {(key.id, None)}


@pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
async def test_without_a_good_key_it_is_a_401_in_the_surfaces_shape(
    tongue: Tongue, start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream, tongue))
    key, other = await make(gw), await make(gw, "other")
    for headers in (
        {},
        {"Authorization": "Bearer sk-foreign"},
        {"Authorization": f"Bearer {key.whole[:-1]}{'a' if key.whole[-1] != 'a' else 'b'}"},
        {"Authorization": f"Bearer {key.whole}", "x-api-key": other.whole},
        {"x-api-key": "' OR 1=1 --"},
    ):
        answer = await gw.ask(tongue, headers=headers)
        assert answer.status == 401
        assert answer.headers["x-should-retry"] == "false"
        assert error_code(tongue, answer.json) == "invalid_api_key"
    assert upstream.seen == []


async def test_a_revoked_key_is_refused_at_once_and_in_another_process_within_a_second(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream))
    here, elsewhere = await make(gw), await make(gw, "elsewhere")
    assert (await gw.over_socket("POST", f"/admin/keys/{here.id}/revoke", {})).json["revoked"] is True
    assert (await gw.ask(headers=here.bearer)).status == 401
    assert (await gw.ask(headers=elsewhere.bearer)).status == 200
    store = KeyStore(gw.state / "ledger.sqlite3")  # as another process would
    await asyncio.to_thread(store.revoke, elsewhere.id, 1)
    assert gw.app is not None
    ring = gw.app.keys.ring
    await settles(lambda: (key := ring.get(elsewhere.id)) is not None and key.revoked_ms is not None)
    assert (await gw.ask(headers=elsewhere.bearer)).status == 401


async def test_a_rotation_under_load_refuses_nobody_within_its_grace_and_the_old_secret_after_it(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream))
    assert gw.app is not None
    secrets, begun = [await make(gw)], 0  # the rotations that were asked for
    id, done = secrets[0].id, asyncio.Event()

    async def ask_on(newest: int) -> None:
        while not done.is_set():
            place = max(0, len(secrets) - 1 - newest)  # the newest secret, or the one before
            answer = await gw.ask(headers=secrets[place].bearer)
            assert answer.status == 200 or place < begun - 1

    asking = [asyncio.ensure_future(ask_on(number % 2)) for number in range(6)]
    for _ in range(6):
        await upstream.asked(len(upstream.seen) + 7)
        begun += 1
        made = await gw.over_socket("POST", f"/admin/keys/{id}/rotate", {"grace_seconds": 3600})
        shown = dict(made.json)
        secrets.append(Made(shown.pop("key"), shown))
    done.set()
    await asyncio.gather(*asking)
    assert [(await gw.ask(headers=key.bearer)).status for key in secrets[-3:]] == [401, 200, 200]
    now = gw.app.gateway.now
    gw.app.gateway.now = lambda: now() + 3601
    assert [(await gw.ask(headers=key.bearer)).status for key in secrets[-2:]] == [401, 200]
    for ended in ("rotate", "revoke", "rotate"):
        answer = await gw.over_socket(
            "POST", f"/admin/keys/{id}/{ended}", {"grace_seconds": 0} if ended == "rotate" else {}
        )
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_request")
    assert "has been revoked, and stays so" in answer.json["error"]["message"]


async def test_a_key_that_another_process_makes_is_taken_over(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream))
    made = await make(gw)
    assert gw.app is not None
    keys = gw.app.keys
    store, known = keys.store, keys.ring.get(made.id)
    assert known is not None
    await asyncio.to_thread(lambda: store.add(type(known)("0" * 12, "b", "neu", b"0" * 32, "", 0)))
    await settles(lambda: keys.ring.get("0" * 12) is not None)


SURFACE_SCOPES = {path: surface.endpoint == "chat" for path, surface in endpoints.SURFACES.items()}


async def test_a_publishable_key_reaches_conversations_and_the_list_of_models_alone(
    start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream))
    key = await make(gw, scopes=["chat"])
    for path, converses in SURFACE_SCOPES.items():
        answer = await gw.post(path, b"{}", key.bearer)
        assert answer.status == (400 if converses else 403), path
        if not converses:
            assert answer.json["error"]["code"] == "not_allowed"
    assert (await gw.get(f"{gw.base}/v1/models", key.bearer)).status == 200
    assert (await gw.post("/v1/route", CHAT.request(), key.bearer)).status == 403


SURFACES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT.request()),
    "messages": ("/v1/messages", MESSAGES.request()),
    "responses": ("/v1/responses", {"model": "first", "input": "Say hello."}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streams"])
@pytest.mark.parametrize(("path", "body"), SURFACES.values(), ids=SURFACES)
async def test_who_may_not_is_told_in_the_shape_of_each_surface(
    path: str, body: dict[str, Any], stream: bool, start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream) + '[projects.x]\nmodels = ["other"]\n[projects.gone]\n')
    ended = await make(gw, "ended")
    await gw.over_socket("POST", f"/admin/keys/{ended.id}/revoke", {})
    outside, admin = await make(gw, project="x"), await make(gw, scopes=["admin:write"])
    orphan = await make(gw, project="gone")
    gw.config.write_text(gw.config.read_text().replace("[projects.gone]\n", ""))
    assert (await gw.over_socket("POST", "/admin/reload", {})).status == 200
    messages = path == "/v1/messages"
    for headers, status, kind, code in (
        ({}, 401, "authentication_error" if messages else "invalid_request_error", "invalid_api_key"),
        (ended.bearer, 401, "authentication_error" if messages else "invalid_request_error", "invalid_api_key"),
        (outside.bearer, 403, "permission_error", "not_allowed"),
        (admin.bearer, 403, "permission_error", "not_allowed"),
        (orphan.bearer, 403, "permission_error", "not_allowed"),
    ):
        answer = await gw.post(path, {**body, "stream": stream}, headers)
        assert (answer.status, answer.headers["x-should-retry"]) == (status, "false")
        assert answer.headers["Content-Type"] == "application/json"
        error = answer.json["error"]
        assert error["type"] == kind
        if messages:
            assert answer.json["type"] == "error"
            assert answer.json["request_id"] == answer.headers["request-id"] == answer.request_id
            assert error["details"]["error_code"] == code
        else:
            assert error.keys() == {"message", "type", "param", "code"}
            assert error["code"] == code
    assert upstream.seen == []


async def test_an_admin_key_is_none_for_inference(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream))
    key = await make(gw, scopes=["admin:read", "admin:write"])
    answer = await gw.ask(MESSAGES, headers=key.bearer)
    assert answer.status == 403
    assert answer.json["error"]["type"] == "permission_error"


async def test_with_auth_none_nobody_is_asked(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream), 'auth = "none"')
    await make(gw)
    assert (await gw.ask(headers={"Forwarded": "for=9.9.9.9", "Authorization": "Bearer x"})).status == 200


async def test_in_open_mode_a_foreign_caller_is_told_how_to_make_a_key(
    start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream))
    answer = await gw.ask(headers={"Origin": "https://example.com"})
    assert answer.status == 401
    assert answer.json["error"]["message"] == HOW_TO
    assert "pointsman keys create --name NAME" in HOW_TO


async def test_who_is_not_admitted_leaves_no_row_and_is_counted(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream))
    await make(gw)
    assert (await gw.ask()).status == 401
    await gw.settled()
    assert await gw.rows(0) == []
    metrics = (await gw.get(f"{gw.admin}/metrics")).body.decode()
    assert 'pointsman_not_admitted_total{outcome="invalid_api_key"} 1' in metrics


@pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
async def test_a_key_that_stands_where_none_belongs_is_repeated_to_nobody(
    tongue: Tongue, start: Start, upstream: ScriptedUpstream
) -> None:
    """Somebody mixed two variables up. Files, log and answers are looked into by `home` and `Answer`."""
    gw = await start(provider("first", upstream))
    key = await make(gw)
    headers = {**key.bearer, **({"anthropic-version": "2023-06-01"} if tongue.name == "anthropic" else {})}
    for path in (f"/v1/{key.whole}", f"/v1/models/{key.whole}", f"/{key.whole}/v1/models", f"/v1/models/x{key.whole}y"):
        assert (await gw.get(gw.base + path, headers)).status == 404
        assert (await gw.post(path, {}, headers)).status in (404, 405)
        assert (await gw.get(gw.admin + path, headers)).status == 404
    for model in (key.whole, f"openai/{key.whole}"):
        answer = await gw.ask(tongue, model, headers=headers)
        assert (answer.status, b"model holds a key" in answer.body) == (400, True)
        assert (await gw.row(answer.request_id))["requested"] == ""


# -- a walk over the router's own list of paths ------------------------------------------------------------------


def tricks(path: str) -> Iterator[str]:
    """Other spellings, none of which may mean the same."""
    yield path.upper()
    yield path.replace("/", "//", 1)
    yield f"/.{path}"
    yield path.replace("/", "/x/../", 1)
    yield path.replace("/", "%2f", 1)
    yield path.replace(path[1], f"%{ord(path[1]):02x}", 1)
    yield f"{path}/"
    yield f"{path};x"
    yield f"http://127.0.0.1{path}#"
    yield f"{path}\\"


async def ask_raw(gw: Running, port: int, method: str, path: str, host: str, key: Made | None) -> tuple[int, bytes]:
    client = RawClient(*await asyncio.open_connection("127.0.0.1", port))
    gw.connections.append(client)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", "Content-Length: 2"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key.whole}")
    await client.send("\r\n".join((*lines, "", "{}")).encode())
    status, _, body = await client.answer()
    client.leave()
    return status, body


# What clients warm their connection up with has neither a body nor a secret: tests/server/test_claude_code.py.
GUARDED = {path: methods for path, methods in DATA.items() if methods.keys() != WARMING}
PATHS = [(True, path, method) for path, methods in GUARDED.items() for method in methods] + [
    (False, path, method) for path, methods in ADMIN.items() for method in methods
]


async def test_every_path_is_shut_to_who_has_no_right_to_it(start: Start, upstream: ScriptedUpstream) -> None:
    """All methods of all paths, with and without a key, in this and in other spellings, with good and odd Hosts."""
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream))
    user, reader = await make(gw, "user"), await make(gw, "reader", scopes=["admin:read"])
    writer = await make(gw, "writer", scopes=["admin:write"])
    ports = {True: gw.port, False: int(gw.admin.rpartition(":")[2])}
    assert len(PATHS) > 25
    for data, pattern, method in PATHS:
        path = pattern.replace("*", "x" * 12)
        for key in (None, user, reader, writer):
            right = path in LIVE or (key is user if data else key is writer or (key is reader and method == "GET"))
            for host in ("localhost", "127.0.0.1:1", f"localhost{path}", "evil.example", "localhost@evil.example"):
                status, _ = await ask_raw(gw, ports[data], method, path, host, key)
                if path in LIVE:
                    assert status == 200
                elif data:
                    assert (status not in (401, 403)) is right, (method, path, key)
                elif not right:
                    assert status in (401, 403), (method, path, host, key)
                else:
                    good = host in ("localhost", "127.0.0.1:1")
                    assert (status not in (401, 403)) is good, (method, path, host, status)
        for spelling in tricks(path):
            for key in (None, user, writer):
                status, body = await ask_raw(gw, ports[data], method, spelling, "localhost", key)
                known = (401, 403) if key is None or (key is user) is not data else ()
                assert status in (400, 404, 405, *known), (method, spelling, key)
                assert not data or status != 401 or b"invalid_api_key" in body
    assert upstream.seen == []


async def test_no_listener_has_the_paths_of_the_other(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream))
    every = ["inference", "admin:read", "admin:write"]
    key, ports = await make(gw, scopes=every), {True: gw.port, False: int(gw.admin.rpartition(":")[2])}
    only = [(data, path) for data, path, _ in PATHS if path not in (ADMIN if data else DATA)]
    assert len(only) > 25
    for data, pattern in only:
        path = pattern.replace("*", "x" * 12)
        for spelling in (path, *tricks(path)):
            for method in ("GET", "POST"):
                status, _ = await ask_raw(gw, ports[not data], method, spelling, "localhost", key)
                assert status in (400, 404), (method, spelling)


OPEN = ("localhost", "127.0.0.1", "[::1]", "LOCALHOST:8080")
STRANGE = (
    "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost@evil.example",
    "evil.example#localhost", "localhost, evil.example", "127.0.0.2", "0.0.0.0", "[::]", "localhost.",
    "127.1", "2130706433", "",
)  # fmt: skip


async def test_without_keys_every_path_is_open_to_this_machine_alone(start: Start, upstream: ScriptedUpstream) -> None:
    """Whatever Host a page that was led here by its name sends, and whatever a proxy adds."""
    gw = await start(provider("first", upstream))
    for data, pattern, method in PATHS:
        path = pattern.replace("*", "x" * 12)
        if not data or path in LIVE:
            continue
        for host in OPEN:
            assert (await ask_raw(gw, gw.port, method, path, host, None))[0] not in (401, 403), (path, host)
        for host in STRANGE:
            assert (await ask_raw(gw, gw.port, method, path, host, None))[0] in (400, 401), (path, host)
        for line in ("Origin: http://localhost", "Via: 1.1 x", "Forwarded: for=::1", "X-Forwarded-Host: localhost"):
            assert (await ask_raw(gw, gw.port, method, path, f"localhost\r\n{line}", None))[0] == 401, (path, line)


async def test_the_socket_takes_what_changes_something_as_json_alone(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream))
    writer = await make(gw, "writer", scopes=["admin:write"])
    for path in ("/admin/keys", f"/admin/keys/{writer.id}/revoke", f"/admin/keys/{writer.id}/rotate", "/admin/reload"):
        form = {**writer.bearer, "Content-Type": "text/plain"}
        assert (await gw.post(path, b"{}", form, base=gw.admin)).status == 415


@pytest.mark.parametrize("scope", SCOPES)
async def test_with_no_keys_made_the_admin_listener_is_shut(
    scope: str, start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream), 'auth = "none"')
    for value in ("", "Bearer ", "Bearer neu_live_" + "a" * 12 + "_" + "b" * 43, f"Bearer {scope}"):
        headers = {"Authorization": value}
        assert (await gw.get(f"{gw.admin}/admin/keys", headers)).status == 401
    assert (await gw.over_socket("GET", "/admin/keys")).json == {"object": "list", "data": []}


async def test_the_admin_socket_is_for_its_owner_and_group(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream))
    assert stat.S_IMODE((gw.state / "admin.sock").stat().st_mode) == 0o660


# -- listeners that others reach ---------------------------------------------------------------------------------


def exposed(home: Path, table: str, server: str = "") -> App:
    config = home / "routes.toml"
    config.write_text(whole(table, server).replace("127.0.0.1:0", "0.0.0.0:0", 1))
    return App(config, env={"STATE_DIRECTORY": str(home / "state")})


async def test_a_listener_that_others_reach_needs_a_key_first(
    home: Path, start: Start, upstream: ScriptedUpstream
) -> None:
    table = provider("first", upstream)
    with pytest.raises(StartRefused, match=r"pointsman keys create --name NAME"):
        await exposed(home, table).start()
    gw = await start(table)
    key = await make(gw)
    assert gw.app is not None
    await gw.app.stop(drain=0)
    app = exposed(home, table)
    await app.start()
    try:
        base = f"http://127.0.0.1:{app.addresses[0].rpartition(':')[2]}"
        assert (await gw.get(f"{base}/v1/models")).status == 401
        assert (await gw.get(f"{base}/v1/models", key.bearer)).status == 200
    finally:
        await app.stop(drain=0)


async def test_a_listener_that_others_reach_is_not_served_without_asking(
    home: Path, upstream: ScriptedUpstream
) -> None:
    with pytest.raises(TableRejected, match=r'auth = "none" anybody there could spend'):
        await exposed(home, provider("first", upstream), 'auth = "none"').start()
