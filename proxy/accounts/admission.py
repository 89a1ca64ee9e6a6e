"""Who may call. The seam every request passes: `Gate.admit` gives a `Permit`, which is settled in the request's one
`finally`.

With keys, a key of ours is needed on every path but health. Until the first one is made, a request is served without
only where it verifiably comes from this machine, sent by a program here and not by a web page or through a proxy.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen

from proxy.accounts.keys import ALL_SURFACES, Key, KeyRing
from proxy.errors import NotAllowed, Unauthenticated

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
FOREIGN_SIGNS = ("forwarded", "via", "origin")  # and x-forwarded-*
HOW_TO = (
    "This gateway has no keys yet, so it answers only programs on its own machine that call it directly: use "
    "http://127.0.0.1 or http://localhost, without a proxy in between and not from a web page. For access from "
    "elsewhere create a key on the gateway's machine, `pointsman keys create --name NAME`, and send it as "
    "Authorization: Bearer KEY."
)
MISSING = (
    "A key of this gateway is needed: send it as Authorization: Bearer KEY or as x-api-key. "
    "`pointsman keys create --name NAME` makes one."
)


@frozen
class Caller:
    """What is known of who calls, before the body is read. `names` are the request's header names in lower case."""

    peer_is_local: bool
    host: str
    names: frozenset[str] = field(repr=False)


@define
class Permit:
    """Leave to make one request. `scope` keeps what belongs to one caller apart from another's."""

    key: Key | None = None
    settled: bool = False

    @property
    def key_id(self) -> str | None:
        return self.key.id if self.key is not None else None

    @property
    def project(self) -> str | None:
        return self.key.project if self.key is not None else None

    @property
    def scope(self) -> str:
        return self.key.id if self.key is not None else ""

    def settle(self) -> None:
        """Once, at the end, however it ended."""
        self.settled = True


@define(eq=False)
class Gate:
    """Admits by the mode that the table names: "none" trusts whoever can connect, "keys" guards."""

    auth: str
    ring: KeyRing = field(factory=KeyRing)

    def admit(
        self,
        presented: str | None,
        caller: Callable[[], Caller],
        now_ms: int,
        scopes: frozenset[str] = ALL_SURFACES,
    ) -> Permit:
        """Raises Unauthenticated with what to do about it, NotAllowed where a good key has none of the `scopes`.

        `caller` is asked only while there are no keys.
        """
        if self.auth == "none":
            return Permit()
        if not self.ring:
            if not is_local(caller()):
                raise Unauthenticated(HOW_TO)
            return Permit()
        return Permit(self.known(presented, now_ms, scopes))

    def known(self, presented: str | None, now_ms: int, scopes: frozenset[str]) -> Key:
        """Whose key it is. Raises as `admit` does."""
        if presented is None:
            raise Unauthenticated(MISSING)
        key = self.ring.check(presented, now_ms)
        if key.scopes.isdisjoint(scopes):
            has, needs = " and ".join(sorted(key.scopes)), " or ".join(sorted(scopes))
            raise NotAllowed(f"The key {key.shown} has the scope {has or 'of nothing'}; this needs {needs}.")
        return key


def is_local(caller: Caller) -> bool:
    """Peer on loopback, a Host that means this machine, and no sign of a proxy or a browser page."""
    return (
        caller.peer_is_local
        and host_name(caller.host) in LOCAL_HOSTS
        and not any(sign in caller.names for sign in FOREIGN_SIGNS)
        and not any(name.startswith("x-forwarded-") for name in caller.names)
    )


def host_name(host: str) -> str:
    """A Host header less its port."""
    host = host.lower()
    return host if host.endswith("]") else host.rsplit(":", 1)[0] if ":" in host else host
