"""Alerts of budgets: a log line and a count at once, and a webhook when there is time for it.

No request waits for a webhook: alerts go through a short queue, and what finds it full is dropped and counted. What is
sent names a key by its id and a project by its name, and holds figures; never a key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import structlog
from attrs import field

from proxy.accounts.asking import moment
from proxy.accounts.budget import Alert, usd
from proxy.metrics import Metrics
from proxy.record import define
from proxy.secret import Secret
from proxy.server.upstream import tls

log = structlog.get_logger()
MOST = 100  # alerts that wait
PATIENCE = aiohttp.ClientTimeout(total=10)
TRIES, PAUSE = 3, 2.0  # for one alert, and seconds between them


@define(eq=False)
class Alerts:
    """`webhook` gives the address that the table in force names, None for none."""

    metrics: Metrics = field(factory=Metrics)
    webhook: Callable[[], Secret | None] = lambda: None
    pause: float = PAUSE
    _waiting: asyncio.Queue[dict[str, Any]] = field(factory=lambda: asyncio.Queue(MOST))

    def tell(self, alert: Alert) -> None:
        """Never waits and never raises."""
        told = alert_json(alert)
        log.warning(told["event"], **{name: value for name, value in told.items() if name != "event"})
        self.metrics.budget_alert(alert.account.partition(":")[0], str(alert.mark // 10))
        if self.webhook() is not None:
            self._put(told)

    def _put(self, told: dict[str, Any]) -> None:
        try:
            self._waiting.put_nowait(told)
        except asyncio.QueueFull:
            self.metrics.webhook("dropped")

    async def run(self) -> None:
        """For ever: sends what waits, one after the other."""
        async with aiohttp.ClientSession(timeout=PATIENCE, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                told = await self._waiting.get()
                address = self.webhook()
                if address is not None:
                    self.metrics.webhook("sent" if await self._sent(session, address, told) else "failed")

    async def _sent(self, session: aiohttp.ClientSession, address: Secret, told: dict[str, Any]) -> bool:
        for number in range(TRIES):
            if number:
                await asyncio.sleep(self.pause)
            try:
                async with session.post(
                    address.reveal(), json=told, allow_redirects=False, ssl=tls.system()
                ) as response:
                    if response.status < 300:
                        return True
                    reason = f"status {response.status}"
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
                reason = type(exc).__name__  # its text may hold the address
            log.warning("webhook_failed", reason=reason, attempt=number + 1)
        return False


def alert_json(alert: Alert) -> dict[str, Any]:
    scope, _, name = alert.account.partition(":")
    return {
        "event": "budget_alert",
        "scope": scope,
        "id": name,
        "percent": alert.mark / 10,
        "spent_usd": usd(alert.spent_nanos),
        "limit_usd": usd(alert.limit_nanos),
        "period": alert.period,
        "period_start": moment(alert.period_start_ms),
    }
