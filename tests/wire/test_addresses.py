"""Which addresses are public, and which only look so."""

from __future__ import annotations

import pytest
from each import each

from proxy.wire.addresses import address_of, is_public

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"]
OTHERS = {
    "loopback": "127.0.0.1", "loopback's network": "127.9.9.9", "loopback in IPv6": "::1", "nothing": "0.0.0.0",
    "nothing in IPv6": "::", "private": "10.0.0.1", "private, in the middle": "172.16.0.1", "at home": "192.168.1.1",
    "link-local": "169.254.169.254", "link-local with a zone": "fe80::1%eth0", "of a carrier": "100.64.0.1",
    "unique local": "fd00::1", "site-local": "fec0::1", "multicast": "224.0.0.1", "multicast in IPv6": "ff02::1",
    "broadcast": "255.255.255.255", "reserved": "240.0.0.1", "of a benchmark": "198.18.0.1", "of a page": "192.0.2.1",
    "of a page in IPv6": "2001:db8::1", "mapped": "::ffff:127.0.0.1", "compatible": "::127.0.0.1",
    "NAT64": "64:ff9b::a9fe:a9fe", "local NAT64": "64:ff9b:1::a9fe:a9fe", "6to4": "2002:7f00:1::",
    "Teredo": "2001:0:7f00:1::", "discarded": "100::1", "of the protocol's own": "192.0.0.1",
}  # fmt: skip


@each("text", PUBLIC)
def test_a_public_address(text: str) -> None:
    assert is_public(address_of(text))


@each("text", OTHERS.values(), ids=OTHERS)
def test_any_other_is_none(text: str) -> None:
    assert not is_public(address_of(text))


@each("text", ["", "localhost", "1.2.3", "0x7f.1", "2130706433", "[::1]"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        address_of(text)
