"""Who asked, where proxies stand in between: `X-Forwarded-For`, believed as far as the proxies are known.

Only that header is read: a proxy that writes one kind passes the other on as the client wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from proxy.record import frozen

UNIX = "unix"  # whoever connects over a Unix socket


@frozen
class Proxies:
    """Addresses whose word counts."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    unix: bool = False

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Proxies:
        """Addresses, networks such as 10.0.0.0/8, and "unix". Raises ValueError."""
        named = tuple(entries)
        return cls(tuple(ip_network(entry) for entry in named if entry != UNIX), UNIX in named)

    def client(self, peer: str | None, forwarded_for: Iterable[str]) -> str | None:
        """The last address on the way that is no proxy of ours. `peer` is None over a Unix socket; `forwarded_for` are
        the header's lines as they came. Where what a proxy says is no address, the proxy is all that is known."""
        nearest = None if peer is None else _address(peer)
        if not (self.unix if nearest is None else self._trusts(nearest)):
            return peer if nearest is None else str(nearest)
        for entry in reversed([entry for line in forwarded_for for entry in line.split(",")]):
            address = _address(entry)
            if address is None:
                break
            nearest = address
            if not self._trusts(address):
                break
        return None if nearest is None else str(nearest)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self.networks)


@lru_cache(maxsize=4096)  # the same few peers come again and again
def _address(text: str) -> IPv4Address | IPv6Address | None:
    """With a port or without, in brackets or without; an IPv4 address that IPv6 carries is that address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
