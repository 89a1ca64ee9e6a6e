"""One question to a provider that no client asked: which models it has, or whether it is well.

It goes out on the provider's own connections with the first of the house's keys, and with nothing of any client's.
"""

from __future__ import annotations

from attrs import evolve

from proxy.dialects import UPSTREAMS
from proxy.errors import UpstreamBroken
from proxy.routing.table import Duration, Provider
from proxy.server.clients.visitor import HOPS
from proxy.server.outgoing import AGENT
from proxy.server.snapshot import Snapshot
from proxy.server.upstream import Outgoing, read_up_to

LARGEST = 4 << 20  # bytes of one answer


async def ask(
    snapshot: Snapshot,
    provider: Provider,
    instance: str,
    path: str,
    body: bytes = b"",
    *,
    rooted: bool = False,
    queueing: bool = True,
) -> tuple[int, bytes]:
    """Status and body. `instance` is this process, in the hop header: a gateway that asks itself would never end.
    Raises GatewayError where no whole answer comes; Overloaded where, without `queueing`, no connection is free."""
    timeouts = snapshot.table.timeouts.overridden(provider.timeouts)
    outgoing = Outgoing(
        path=path,
        headers=_headers(provider, instance),
        body=body,
        timeouts=timeouts if queueing else evolve(timeouts, queue=Duration(0.0)),
        method="POST" if body else "GET",
        rooted=rooted,
    )
    reply = await snapshot.upstreams[provider.name].send(outgoing)
    content, whole = await read_up_to(LARGEST, reply)
    if not whole:
        reply.close()
        raise UpstreamBroken("The answer is too long.", detail=f"more than {LARGEST} bytes")
    return reply.status, content


def _headers(provider: Provider, instance: str) -> tuple[tuple[str, str], ...]:
    """Later ones replace earlier ones, as for a client's request."""
    dialect = UPSTREAMS[provider.dialects[0]]
    key = next(iter(provider.credentials), None)
    merged = {
        name.lower(): (name, value)
        for name, value in (
            *dialect.fixed_headers,
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
            ("User-Agent", AGENT),
            (HOPS, instance),
            *((name, secret.reveal()) for name, secret in provider.headers.items()),
            *(dialect.credential(key.reveal()) if key is not None else ()),
        )
    }
    return tuple(merged.values())
