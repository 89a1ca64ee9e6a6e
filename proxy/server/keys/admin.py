"""`/admin/keys`: list, make, show, rotate and revoke. A whole key is in the answer that makes it, and in no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp.web_response import Response, StreamResponse
from attrs import field

from proxy import errors
from proxy.accounts.asking import read_grace, read_wanted
from proxy.accounts.keys import Key
from proxy.record import define
from proxy.server import intake
from proxy.server.clients.inbound import PlainRequest
from proxy.server.clients.listener import json_response, raw_path
from proxy.server.keys.changes import Keys
from proxy.server.snapshot import Snapshot
from proxy.wire import json_text

ROOM = "/admin/keys/"
MOST_BODY = 64 << 10
BODY_SECONDS = 10.0
TOUCH_MS = 60_000  # between two notes of an admin key's use


@define(eq=False)
class KeyAdmin:
    keys: Keys
    current: Callable[[], Snapshot]
    _touched: dict[str, int] = field(factory=dict)

    async def list(self, request: PlainRequest) -> StreamResponse:
        data = await asyncio.to_thread(lambda: self.keys.shown(*self.keys.all()))
        return secret_response({"object": "list", "data": data})

    async def create(self, request: PlainRequest) -> StreamResponse:
        table = self.current().table
        wanted = read_wanted(await read_document(request), table.projects, self.keys.now_ms())
        key, whole = await asyncio.to_thread(self.keys.create, wanted, table.server.key_prefix)
        return await self._handed_over(key, whole, 201)

    async def show(self, request: PlainRequest) -> StreamResponse:
        return await self._handed_over(await asyncio.to_thread(self.keys.one, _id(request)[0]))

    async def change(self, request: PlainRequest) -> StreamResponse:
        """POST …/rotate and …/revoke."""
        id, verb = _id(request)
        match verb:
            case "rotate":
                grace = read_grace(await read_document(request))
                return await self._handed_over(*await asyncio.to_thread(self.keys.rotate, id, grace))
            case "revoke":
                return await self.revoke(request)
            case _:
                raise errors.UnknownPath(f"POST takes {ROOM}ID/rotate and {ROOM}ID/revoke.")

    async def revoke(self, request: PlainRequest) -> StreamResponse:
        return await self._handed_over(await asyncio.to_thread(self.keys.revoke, _id(request)[0]))

    async def _handed_over(self, key: Key, whole: str | None = None, status: int = 200) -> StreamResponse:
        (shown,) = await asyncio.to_thread(self.keys.shown, key)
        return secret_response(shown if whole is None else {"key": whole, **shown}, status)

    async def used(self, key: Key) -> None:
        """Notes the use of an admin key, now and then: there is no record of its requests that would say so."""
        now = self.keys.now_ms()
        if now - self._touched.get(key.id, 0) >= TOUCH_MS:
            self._touched[key.id] = now
            await asyncio.to_thread(self.keys.store.touch, key.id, now)


def secret_response(document: Any, status: int = 200) -> Response:
    """Nobody in between may keep it."""
    response = json_response(document, status)
    response.headers["Cache-Control"] = "no-store"
    return response


def _id(request: PlainRequest) -> tuple[str, str]:
    """The id in the path, and the word behind it. Raises UnknownPath."""
    id, _, verb = raw_path(request).removeprefix(ROOM).partition("/")
    if not id or (request.method != "POST" and verb):
        raise errors.UnknownPath(f"{ROOM}ID is a key.")
    return id, verb


async def read_document(request: PlainRequest) -> Any:
    """An empty body is an empty object. Raises as `intake.read_body` does, and InvalidJson."""
    body = await intake.read_body(request, MOST_BODY, BODY_SECONDS)
    try:
        return json_text.read(body) if body.strip() else {}
    except ValueError as exc:
        raise errors.InvalidJson("The body is not valid JSON.") from exc
