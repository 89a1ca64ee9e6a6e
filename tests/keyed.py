"""A gateway with keys: made through the admin socket, sent as a client would."""

from __future__ import annotations

from typing import Any

from attrs import define
from gateway import Running


@define
class Made:
    """`whole` is the key itself, `shown` what the gateway says of it."""

    whole: str
    shown: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.shown["id"])

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.whole}"}


async def make(gw: Running, name: str = "test", **wanted: Any) -> Made:
    answer = await gw.over_socket("POST", "/admin/keys", {"name": name, **wanted})
    assert answer.status == 201, answer.body
    shown = dict(answer.json)
    return Made(shown.pop("key"), shown)
