"""Who may call. The seam every request passes: `admit(caller) -> Permit`, settled in the request's one `finally`.

Until virtual keys exist the only guard is open mode's: a request is served without a key only where it verifiably comes
from this machine, sent by a program here and not by a web page or through a proxy.
"""

from __future__ import annotations

from attrs import define, field, frozen

from proxy import ir
from proxy.errors import Unauthenticated

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
FOREIGN_SIGNS = ("forwarded", "via", "origin")  # and x-forwarded-*
HOW_TO = (
    "This gateway has no keys yet, so it answers only programs on its own machine that call it directly: use "
    "http://127.0.0.1 or http://localhost, without a proxy in between and not from a web page. For access from "
    'elsewhere keys are needed; a trusted proxy on this machine may be allowed with [server] auth = "none".'
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

    key_id: str | None = None
    project: str | None = None
    scope: str = ""
    settled: bool = False

    def settle(self, usage: ir.Usage | None, cost_nanos: int | None) -> None:
        """Once, at the end, however it ended."""
        self.settled = True


class Gate:
    """Admits by the mode that the table names: "none" trusts whoever can connect, "keys" guards."""

    def __init__(self, auth: str) -> None:
        self._open_to_all = auth == "none"

    def admit(self, caller: Caller) -> Permit:
        """Raises Unauthenticated with what to do about it."""
        if not self._open_to_all and not is_local(caller):
            raise Unauthenticated(HOW_TO)
        return Permit()


def is_local(caller: Caller) -> bool:
    """Peer on loopback, a Host that means this machine, and no sign of a proxy or a browser page."""
    host = caller.host.lower()
    name = host if host.endswith("]") else host.rsplit(":", 1)[0] if ":" in host else host
    return (
        caller.peer_is_local
        and name in LOCAL_HOSTS
        and not any(sign in caller.names for sign in FOREIGN_SIGNS)
        and not any(name.startswith("x-forwarded-") for name in caller.names)
    )
