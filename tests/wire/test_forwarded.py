"""Whose word counts for who asked."""

from __future__ import annotations

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.forwarded import Proxies

INNER = ("10.0.0.0/8", "192.168.1.5", "fd00::/8", "unix")
# whose word counts, who connects, what the header's lines say -> who asked
WAYS: dict[str, tuple[tuple[str, ...], str | None, tuple[str, ...], str | None]] = {
    "nobody is believed where nobody is named": ((), "127.0.0.1", ("1.2.3.4",), "127.0.0.1"),
    "a stranger is not believed": (INNER, "8.8.8.8", ("1.2.3.4",), "8.8.8.8"),
    "a proxy is believed": (INNER, "10.1.2.3", ("1.2.3.4",), "1.2.3.4"),
    "a proxy that says nothing is all that is known": (INNER, "10.1.2.3", (), "10.1.2.3"),
    "of what a client made up nothing counts": (INNER, "10.1.2.3", ("6.6.6.6, 1.2.3.4",), "1.2.3.4"),
    "a chain of proxies is followed": (INNER, "10.1.2.3", ("6.6.6.6, 1.2.3.4, 192.168.1.5",), "1.2.3.4"),
    "over several lines": (INNER, "10.1.2.3", ("1.2.3.4", "10.9.9.9"), "1.2.3.4"),
    "where all are proxies the first is who asked": (INNER, "10.1.2.3", ("10.4.4.4, 10.5.5.5",), "10.4.4.4"),
    "a name is no address": (INNER, "10.1.2.3", ("1.2.3.4, unknown",), "10.1.2.3"),
    "nor is nothing": (INNER, "10.1.2.3", ("",), "10.1.2.3"),
    "a port is left out": (INNER, "10.1.2.3", ("1.2.3.4:555",), "1.2.3.4"),
    "an IPv6 address": (INNER, "fd00::1", ("2001:db8::1",), "2001:db8::1"),
    "one in brackets, with a port": (INNER, "fd00::1", ("[2001:db8::1]:99",), "2001:db8::1"),
    "a zone is left out": (INNER, "fd00::1%eth0", ("1.2.3.4",), "1.2.3.4"),
    "IPv4 within IPv6": (INNER, "::ffff:10.1.2.3", ("::ffff:1.2.3.4",), "1.2.3.4"),
    "a Unix socket's word counts where it is named": (INNER, None, ("1.2.3.4",), "1.2.3.4"),
    "and does not where it is not": (("10.0.0.0/8",), None, ("1.2.3.4",), None),
    "a Unix socket that says nothing": (INNER, None, (), None),
}


@each(("trusted", "peer", "lines", "asked"), WAYS.values(), ids=WAYS)
def test_who_asked(trusted: tuple[str, ...], peer: str | None, lines: tuple[str, ...], asked: str | None) -> None:
    assert Proxies.parse(trusted).client(peer, lines) == asked


@each("entry", ["", "localhost", "10.0.0.1/8", "1.2.3", "10.0.0.0/33", "unix:/x"])
def test_what_is_no_network_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Proxies.parse([entry])


@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_text_in_the_header_is_borne(lines: list[str]) -> None:
    assert Proxies.parse(INNER).client("10.0.0.1", lines) is not None
