"""Looks a provider's name up in a thread of its own.

The loop's own look-ups share a few threads, and one that waits for a name server that does not answer keeps its thread
for as long as the C library likes: a few such providers would hold up the look-ups of all others. aiohttp asks once at
a time for each name, so a provider has one such thread at most.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from aiohttp.abc import AbstractResolver, ResolveResult

Told = Callable[[list[ResolveResult], Exception | None], None]
NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class OwnThread(AbstractResolver):
    """Raises OSError where the name has no address."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def told(addresses: list[ResolveResult], exc: Exception | None) -> None:
            if found.done():  # nobody waits any more
                return
            if exc is not None:
                found.set_exception(exc)
            else:
                found.set_result(addresses)

        try:
            looking = threading.Thread(
                target=_look_up,
                args=(host, port, family, told, loop.call_soon_threadsafe),
                name=f"look up {host}",
                daemon=True,
            )
            looking.start()
            return await found
        except RuntimeError as exc:  # no more threads
            raise OSError(str(exc)) from exc
        finally:
            found.cancel()

    async def close(self) -> None:
        """Nothing is held: a thread that is under way ends by itself."""


def _look_up(
    host: str, port: int, family: socket.AddressFamily, told: Told, soon: Callable[[Callable[[], object]], object]
) -> None:
    addresses, problem = list[ResolveResult](), None
    try:
        addresses = _addresses(host, port, family)
    except Exception as exc:
        problem = exc if isinstance(exc, OSError) else OSError(f"{type(exc).__name__}: {exc}")
    with suppress(RuntimeError):  # the loop has ended meanwhile
        soon(functools.partial(told, addresses, problem))


def _addresses(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG)
    found = [
        ResolveResult(
            hostname=host, host=_numeric(address), port=int(address[1]), family=kind, proto=proto, flags=NUMERIC
        )
        for kind, _, proto, _, address in infos
    ]
    if not found:
        raise OSError(f"{host} has no address")
    return found


def _numeric(address: tuple[object, ...]) -> str:
    """With the zone of a link-local address, without which it leads nowhere."""
    if len(address) == 4 and address[3]:
        flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        return socket.getnameinfo(address, flags)[0]  # type: ignore[arg-type]  # getaddrinfo's own tuple
    return str(address[0])
