"""Which addresses belong to the public Internet.

An allow-list: what the registries call global, less what carries another address inside. Lists of what is forbidden
have missed NAT64, 6to4 and the shared space of carriers before.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
# Global by the registry, and yet ways to an IPv4 address that need not be: NAT64, 6to4, Teredo, addresses of IPv4
# written as IPv6, and site-local ones.
CARRIERS = tuple(map(ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "fec0::/10")))


def address_of(text: str) -> IPv4Address | IPv6Address:
    """An IPv4 address that IPv6 maps is that address. Raises ValueError."""
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def is_public(address: IPv4Address | IPv6Address) -> bool:
    special = address.is_multicast or address.is_reserved or any(address in network for network in CARRIERS)
    return address.is_global and not special


def is_within(address: IPv4Address | IPv6Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
