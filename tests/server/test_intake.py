"""Bad input, over the wire: a 4xx in the surface's own shape that names the field and the remedy; nobody is asked, and
nothing secret is logged or recorded."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import orjson
import pytest
import structlog
from gateway import Answer, Start, provider
from playbook import CHAT, MESSAGES, TONGUES, Tongue
from upstream import ScriptedUpstream, plain

from proxy.errors import InvalidJson, InvalidRequest
from proxy.server import intake

LOOPS = ("uvloop",)
SECRET = "canary-secret-words"
TURN = {"role": "user", "content": SECRET}
both_surfaces = pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)

NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \n ",
    "words": SECRET.encode(),
    "cut": b'{"model": "first", "messages": [',
    "two documents": b'{"model": "first"} {"model": "first"}',
    "trailing text": b'{"model": "first"} x',
    "an array": b"[1]",
    "a string": b'"first"',
    "null": b"null",
    "NaN": b'{"model": "first", "temperature": NaN}',
    "Infinity": b'{"model": "first", "temperature": Infinity}',
    "UTF-16": '{"model": "first"}'.encode("utf-16"),
    "invalid UTF-8": b'{"model": "fir\xff\xfest"}',
    "a hundred thousand brackets": b'{"model": "first", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "brackets and a lone surrogate": b'{"a": "\\ud83d", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}

# what is sent -> the field that the answer names
WRONG: dict[str, tuple[dict[str, Any], str, int]] = {
    "no model": ({"messages": [TURN]}, "model", 400),
    "model null": ({"model": None, "messages": [TURN]}, "model", 400),
    "model empty": ({"model": "", "messages": [TURN]}, "model", 400),
    "model a number": ({"model": 1, "messages": [TURN]}, "model", 400),
    "model a list": ({"model": ["first"], "messages": [TURN]}, "model", 400),
    "model of 100 KB": ({"model": "x" * 100_000, "messages": [TURN]}, "model", 400),
    "an unknown model": ({"model": "firts", "messages": [TURN]}, "model", 404),
    "a model with a line end": ({"model": "a\r\nX-Evil: 1", "messages": [TURN]}, "model", 404),
    "a model of another alphabet": ({"model": "模型\u202e", "messages": [TURN]}, "model", 404),
    "models a string": ({"model": "first", "models": "second", "messages": [TURN]}, "models", 400),
    "models of numbers": ({"model": "first", "models": [1], "messages": [TURN]}, "models[0]", 400),
    "stream a string": ({"model": "first", "stream": "true", "messages": [TURN]}, "stream", 400),
    "stream a number": ({"model": "first", "stream": 1, "messages": [TURN]}, "stream", 400),
    "no messages": ({"model": "first"}, "messages", 400),
    "messages null": ({"model": "first", "messages": None}, "messages", 400),
    "messages empty": ({"model": "first", "messages": []}, "messages", 400),
    "messages a string": ({"model": "first", "messages": SECRET}, "messages", 400),
    "messages an object": ({"model": "first", "messages": TURN}, "messages", 400),
    "messages of strings": ({"model": "first", "messages": [TURN, SECRET]}, "messages[1]", 400),
    "messages of nulls": ({"model": "first", "messages": [None]}, "messages[0]", 400),
    "content a number": ({"model": "first", "messages": [TURN | {"content": 5}]}, "messages[0].content", 400),
    "content an object": ({"model": "first", "messages": [TURN | {"content": TURN}]}, "messages[0].content", 400),
    "content of strings": (
        {"model": "first", "messages": [TURN | {"content": [SECRET]}]},
        "messages[0].content[0]",
        400,
    ),
    "a role a number": ({"model": "first", "messages": [TURN | {"role": 1}]}, "messages[0].role", 400),
    "tools of strings": ({"model": "first", "messages": [TURN], "tools": [SECRET]}, "tools[0]", 400),
    "sort unknown": ({"model": "first", "sort": "beauty", "messages": [TURN]}, "sort", 400),
    "max_price below zero": ({"model": "first", "max_price": -1, "messages": [TURN]}, "max_price", 400),
    "provider a string": ({"model": "first", "provider": "x", "messages": [TURN]}, "provider", 400),
}


def is_refused(tongue: Tongue, answer: Answer, status: int, param: str | None = None) -> dict[str, Any]:
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"].startswith("req_")
    assert answer.headers["x-should-retry"] == "false"
    document = answer.json
    error = document["error"]
    assert len(error["message"]) > 15
    assert SECRET not in error["message"]
    if tongue is MESSAGES:
        assert document["type"] == "error"
        assert document["request_id"] == answer.headers["request-id"]
        found = error["details"].get("param")
    else:
        found = error["param"]
    if param is not None:
        assert found == param
        assert param.partition("[")[0] in error["message"]
    return dict(error)


@both_surfaces
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
async def test_what_is_no_json_object_is_refused(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, body: bytes
) -> None:
    gw = await start(provider("first", upstream, tongue))
    with structlog.testing.capture_logs() as lines:
        answer = await gw.post(tongue.path, body)
    error = is_refused(tongue, answer, 400)
    assert error["type"] == "invalid_request_error"
    assert upstream.opened == 0
    assert SECRET not in str(lines)
    assert SECRET not in str(await gw.row(answer.request_id))


@both_surfaces
@pytest.mark.parametrize(("document", "param", "status"), WRONG.values(), ids=WRONG)
async def test_a_wrong_field_is_named(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, document: dict[str, Any], param: str, status: int
) -> None:
    gw = await start(provider("first", upstream, tongue))
    with structlog.testing.capture_logs() as lines:
        answer = await gw.post(tongue.path, document)
    is_refused(tongue, answer, status, param)
    assert upstream.opened == 0
    assert SECRET not in str(lines)
    record = await gw.row(answer.request_id)
    assert SECRET not in str(record)
    assert (record["status"], record["attempts"]) == (status, [])


@both_surfaces
@pytest.mark.parametrize("member", ["model", "stream", "messages", "models"])
async def test_a_member_that_the_gateway_reads_may_not_stand_twice(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, member: str
) -> None:
    gw = await start(provider("first", upstream, tongue))
    body = orjson.dumps(tongue.request(stream=True, models=["first"]))
    twice = body[:-1] + b',"%b":null}' % member.encode()
    is_refused(tongue, await gw.post(tongue.path, twice), 400, member)
    assert upstream.opened == 0


async def test_the_404_names_what_is_near(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    assert "first" in (await gw.ask(CHAT, "frist")).json["error"]["message"]


TYPES = {
    "JSON": ("application/json", True),
    "with a charset": ("application/json; charset=utf-8", True),
    "a JSON dialect": ("application/vnd.api+json", True),
    "none": ("", True),
    "form": ("application/x-www-form-urlencoded", False),
    "text": ("text/plain", False),
    "multipart": ("multipart/form-data; boundary=x", False),
}


@both_surfaces
@pytest.mark.parametrize(("content_type", "taken"), TYPES.values(), ids=TYPES)
async def test_the_content_type_is_json_or_absent(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, content_type: str, taken: bool
) -> None:
    gw = await start(provider("first", upstream, tongue))
    upstream.plays(plain(tongue.answer("ok")))
    client = await gw.connect()
    body = orjson.dumps(tongue.request())
    given = f"Content-Type: {content_type}\r\n" if content_type else ""
    await client.send(
        f"POST {tongue.path} HTTP/1.1\r\nHost: localhost\r\n{given}Content-Length: {len(body)}\r\n\r\n".encode() + body
    )
    status, _, answer = await client.answer()
    assert status == (200 if taken else 415)
    if not taken:
        assert "application/json" in orjson.loads(answer)["error"]["message"]
        assert upstream.opened == 0


@both_surfaces
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "nonsense"])
async def test_a_compressed_body_is_refused(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, coding: str
) -> None:
    gw = await start(provider("first", upstream, tongue))
    answer = await gw.post(tongue.path, b"\x1f\x8b", {"Content-Encoding": coding})
    assert "Content-Encoding" in is_refused(tongue, answer, 415)["message"]


@both_surfaces
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
async def test_a_wrong_method_is_told_the_right_one(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, method: str
) -> None:
    gw = await start(provider("first", upstream, tongue))
    async with gw.client.request(method, gw.base + tongue.path) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        if method != "HEAD":
            assert "POST" in (await response.json())["error"]["message"]


PATHS = [
    "/", "/v1", "/v1/chat/completions/", "/v1//chat/completions", "/V1/chat/completions", "/v1/chat%2fcompletions",
    "/v1/./chat/completions", "/admin/decisions", "/metrics", "/v1/nothing", "/%00", "/..%2f..%2fetc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_path_is_a_404_with_a_body(upstream: ScriptedUpstream, start: Start, path: str) -> None:
    gw = await start(provider("first", upstream))
    client = await gw.connect()
    await client.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    status, headers, body = await client.answer()
    assert status == 404
    assert orjson.loads(body)["error"]["code"] == "unknown_path"
    assert headers["x-request-id"].startswith("req_")


HINTS = {
    "/chat/completions": "POST /v1/chat/completions",
    "/v1/chat/completions/": "POST /v1/chat/completions",
    "/v1/v1/messages": "POST /v1/messages",
    "/v1/model": "GET /v1/models",
    "/v1/chat": "POST /v1/chat/completions?",
    "/v1/images": "POST /v1/images/generations?",
    "/v1/": "/v1 for OpenAI's SDKs",
    "/": "/v1 for OpenAI's SDKs",
    "/x": "/v1 for OpenAI's SDKs",
    "/nothing/of/the/kind": "/v1 for OpenAI's SDKs",
    "/" + "a" * 4000: "/v1 for OpenAI's SDKs",
}


@pytest.mark.parametrize(("path", "hint"), HINTS.items(), ids=[path[:30] for path in HINTS])
async def test_an_unknown_path_is_told_what_is_near(
    upstream: ScriptedUpstream, start: Start, path: str, hint: str
) -> None:
    gw = await start(provider("first", upstream))
    assert hint in (await gw.post(path, {})).json["error"]["message"]


async def test_an_unknown_path_below_messages_speaks_anthropic(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    answer = await gw.post("/v1/messages/nothing", {})
    assert answer.status == 404
    assert answer.json["type"] == "error"


# -- size and time -----------------------------------------------------------------------------------------------

SMALL = 'max_body = "64KiB"\n'
IMPATIENT = 'body_timeout = "100ms"\n'


@both_surfaces
@pytest.mark.parametrize("size", [65_537, 70_000, 1 << 20], ids=["a byte more", "a little more", "much more"])
@pytest.mark.parametrize("framing", ["declared", "chunked"])
async def test_a_body_over_the_limit_is_413(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, framing: str, size: int
) -> None:
    gw = await start(provider("first", upstream, tongue), SMALL)
    body = orjson.dumps(tongue.request(padding="x" * size))

    async def pieces() -> Any:
        for at in range(0, len(body), 30_000):
            yield body[at : at + 30_000]

    data = io.BytesIO(body) if framing == "declared" else pieces()
    headers = {"Content-Type": "application/json"}
    async with gw.client.post(gw.base + tongue.path, data=data, headers=headers) as response:
        answer = Answer(response.status, response.headers, await response.read())
    assert "65536" in is_refused(tongue, answer, 413)["message"]
    assert upstream.opened == 0


async def test_a_declared_body_over_the_limit_is_not_waited_for(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream), SMALL)
    client = await gw.connect()
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Expect: 100-continue\r\nContent-Length: 999999\r\n\r\n"
    )
    status, headers, _ = await client.answer()
    assert status == 413
    assert headers["connection"] == "close"


async def test_a_body_as_large_as_the_limit_passes(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream), SMALL)
    upstream.plays(plain(CHAT.answer("ok")))
    empty = len(orjson.dumps(CHAT.request(padding="")))
    assert (await gw.post(CHAT.path, CHAT.request(padding="x" * (65_536 - empty)))).status == 200


async def test_where_a_body_has_all_the_time_it_may_come_in_pieces(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream), 'body_timeout = "off"\n')
    upstream.plays(plain(CHAT.answer("ok")))
    client = await gw.connect()
    body = orjson.dumps(CHAT.request())
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    for piece in (head, body[:9], body[9:]):
        await client.send(piece)
        await asyncio.sleep(0)
    assert (await client.answer())[0] == 200


async def test_a_client_that_waits_for_leave_to_send_gets_it(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    client = await gw.connect()
    body = orjson.dumps(CHAT.request())
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(body)
    assert (await client.answer())[0] == 200


@both_surfaces
@pytest.mark.parametrize("stops_after", [0, 10])
async def test_a_body_that_does_not_come_is_408(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, stops_after: int
) -> None:
    gw = await start(provider("first", upstream, tongue), IMPATIENT)
    client = await gw.connect()
    await client.request(tongue, tongue.request(), cut=stops_after)
    status, headers, body = await client.answer()
    assert status == 408
    assert headers["connection"] == "close"
    error = orjson.loads(body)["error"]
    assert error["type"] == ("timeout_error" if tongue is MESSAGES else "invalid_request_error")
    assert upstream.opened == 0


@pytest.mark.parametrize("packets", ["one", "two"])
async def test_a_malformed_chunk_ends_in_400_or_408(upstream: ScriptedUpstream, start: Start, packets: str) -> None:
    gw = await start(provider("first", upstream), IMPATIENT)
    client = await gw.connect()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    if packets == "one":
        await client.send(head + b"zz\r\n{}\r\n")
    else:
        await client.send(head + b"1\r\n{\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        await client.send(b"zz\r\n}\r\n")
    status, _, body = await client.answer()
    assert status in (400, 408)
    assert orjson.loads(body)["error"]["message"]
    client.writer.write_eof()  # who still sends would be listened to for a while
    assert await client.rest() == b""
    assert upstream.opened == 0


BAD_HTTP = {
    "no HTTP": b"\x16\x03\x01canary\r\n\r\n",
    "an unknown method": b"BREW /canary HTTP/1.1\r\nHost: a\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\ncanary",
    "a length and chunked": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\nx",
    "a folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: canary\r\n b\r\n\r\n",
    "a header of 100 KB": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"canary" * 20_000 + b"\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: canary\0b\r\n\r\n",
}


@pytest.mark.parametrize("raw", BAD_HTTP.values(), ids=BAD_HTTP)
async def test_bad_http_is_a_400_that_repeats_nothing(upstream: ScriptedUpstream, start: Start, raw: bytes) -> None:
    gw = await start(provider("first", upstream))
    client = await gw.connect()
    with structlog.testing.capture_logs() as lines:
        await client.send(raw)
        status, headers, body = await client.answer()
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert orjson.loads(body)["error"]["type"] == "invalid_request_error"
    assert b"canary" not in body
    assert "canary" not in str(lines)
    assert [line["event"] for line in lines] == ["bad_http"]


# -- pure --------------------------------------------------------------------------------------------------------


def test_a_request_is_parsed_once_and_told_where_it_breaks() -> None:
    assert intake.parse(b'{"a": 1}', frozenset())[0] == {"a": 1}
    with pytest.raises(InvalidJson, match="line 2, column 3"):
        intake.parse(b'{"a":\n  x}', frozenset())
    with pytest.raises(InvalidJson, match="empty"):
        intake.parse(b"  ", frozenset())
    with pytest.raises(InvalidRequest, match="stands twice"):
        intake.parse(b'{"a": 1, "a": 2}', frozenset({"a"}))
    assert intake.parse(b'{"a": 1, "a": 2}', frozenset({"b"}))[0] == {"a": 2}
