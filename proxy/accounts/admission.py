"""Who may call. The gate that every request passes: `admit` gives a `Permit`, settled in the request's one `finally`.

With keys, a key of ours is needed on every path but health. Until the first one is made, a request is served without
only where it verifiably comes from this machine, sent by a program here and not by a web page or through a proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import field

from proxy.accounts.books import Books, Standing, Terms
from proxy.accounts.keys import ALL_SURFACES, Key, KeyRing
from proxy.accounts.limits import LimitTerms, Meter
from proxy.accounts.permit import Permit
from proxy.errors import NotAllowed, Unauthenticated
from proxy.record import define, frozen

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


@define(eq=False)
class Gate:
    """Admits by the mode that the table names: "none" trusts whoever can connect, "keys" guards."""

    auth: str
    ring: KeyRing = field(factory=KeyRing)
    books: Books = field(factory=Books)
    projects: Mapping[str, Terms] = field(factory=dict)
    models: Mapping[str, LimitTerms] = field(factory=dict)
    _standings: dict[str, Standing] = field(factory=dict)

    def admit(
        self,
        presented: str | None,
        caller: Callable[[], Caller],
        now_ms: int,
        scopes: frozenset[str] = ALL_SURFACES,
        digest: bytes | None = None,
    ) -> Permit:
        """Raises Unauthenticated with what to do about it, NotAllowed where a good key has none of the `scopes`.

        `caller` is asked only while there are no keys. `digest` is that of the key where it is known already.
        """
        if self.auth == "none":
            return Permit()
        if not self.ring.by_id:
            if not is_local(caller()):
                raise Unauthenticated(HOW_TO)
            return Permit()
        key = self.known(presented, now_ms, scopes, digest)
        standing = self._standings.get(key.id)
        if standing is None or standing.key is not key:
            standing = self._standings[key.id] = self._stand(key, now_ms)
        return Permit(standing, now_ms)

    def _stand(self, key: Key, now_ms: int) -> Standing:
        project = None
        if key.project is not None:
            project = self.projects.get(key.project)
            if project is None:
                raise NotAllowed(
                    f"The key {key.shown} belongs to the project {key.project}, which the table does not have any more."
                )
        return self.books.standing(key, project, now_ms)

    def model_meter(self, model: str) -> Meter | None:
        """Of a model that the table gives limits of its own."""
        terms = self.models.get(model)
        return None if terms is None else self.books.meter(f"model:{model}", terms)

    def known(self, presented: str | None, now_ms: int, scopes: frozenset[str], digest: bytes | None = None) -> Key:
        """Whose key it is. Raises as `admit` does."""
        if presented is None:
            raise Unauthenticated(MISSING)
        key = self.ring.check(presented, now_ms, digest)
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
