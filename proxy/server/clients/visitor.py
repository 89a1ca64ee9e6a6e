"""What follows from the head of a request, and from whose key it holds: read once, for as long as that head comes
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from attrs import field
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.accounts.books import Standing
from proxy.accounts.keys import digest_of, presented
from proxy.accounts.vault import NONE
from proxy.errors import InvalidRequest, LoopDetected, Unauthenticated
from proxy.record import define
from proxy.routing.table import Project, Table
from proxy.secret import Secret
from proxy.server.clients.inbound import Head, Request
from proxy.server.snapshot import Snapshot
from proxy.wire.forwarded import Proxies
from proxy.wire.headers import may_pass

HOPS = "x-pointsman-hops"  # ids of the gateways that a request has passed; see LoopDetected
MOST_HOPS = 5
LONGEST_ID = 128
FORM = "multipart/form-data"
KEY_HEADERS = ("authorization", "x-api-key")  # where a key of ours may stand
SESSION_HEADERS = ("x-claude-code-session-id", "session_id", "session-id", "x-session-id")


@define(eq=False)
class Visitor:
    """Whoever sends such a head. `sent` are its headers; `headers` are those with what the project says where the
    client does not, known once the key is. Shared by requests, and the same for all of them."""

    sent: CIMultiDictProxy[str] = field(repr=False)
    key: str | None = field(repr=False)  # of ours, as it was presented
    digest: bytes | None = field(repr=False)  # of the key
    torn: bool  # two keys of ours came that differ
    client_id: str | None
    media_type: str
    ordinary: bool  # its body is JSON as it is
    expects: bool  # to be told to go on before it sends that
    hops: str  # passed on the way here
    byok: Mapping[str, Secret] = field(repr=False)
    misfit: str  # why what came as keys for providers cannot be meant
    session: str | None
    forwarded: tuple[str, ...]  # lines of X-Forwarded-For
    headers: CIMultiDictProxy[str] = field(init=False, repr=False)
    project: Project | None = field(init=False, default=None)
    steers: bool = field(init=False, default=True)  # a header or the project has a say in where the request goes
    passing: tuple[tuple[str, str], ...] = field(init=False, default=(), repr=False)  # beside a key of the house
    _standing: Standing | None = field(init=False, default=None)
    _client: dict[str | None, str | None] = field(init=False, factory=dict)  # who asked, by who connected last

    def __attrs_post_init__(self) -> None:
        self.headers = self.sent

    def belongs_to(self, standing: Standing, table: Table) -> None:
        """Its key was looked up."""
        if standing is self._standing:
            return
        project = self.project = table.projects.get(standing.project) if standing.project is not None else None
        self.headers = self.sent
        if project is not None and project.headers:
            more = [(name, value) for name, value in project.headers.items() if name not in self.sent]
            self.headers = CIMultiDictProxy(CIMultiDict([*self.sent.items(), *more]))
        prefix = table.server.header_prefix.lower()
        self.steers = any(name.lower().startswith(prefix) for name in self.headers) or (
            project is not None and (project.profile is not None or project.max_price is not None)
        )
        self.passing = may_pass(self.headers.items())
        self._standing = standing

    def brought(self) -> Mapping[str, Secret]:
        """The keys for providers that came along. Raises InvalidRequest where they cannot be meant."""
        if self.misfit:
            raise InvalidRequest(self.misfit)
        return self.byok

    def check_hops(self, instance: str) -> None:
        if self.hops and (instance in self.hops.split(",") or self.hops.count(",") >= MOST_HOPS):
            raise LoopDetected("The request came back to this gateway: a provider's base_url points at the gateway.")

    def client(self, peer: str | None, proxies: Proxies) -> str | None:
        """The address of who asked, where `peer` has connected; None is a Unix socket."""
        if peer not in self._client:
            self._client = {peer: proxies.client(peer, self.forwarded)}
        return self._client[peer]


def visitor_of(request: Request, snapshot: Snapshot) -> Visitor:
    return request.head.under(snapshot, _read)


def _read(head: Head, snapshot: Snapshot) -> Visitor:
    headers, table = head.headers, snapshot.table
    try:
        key, torn = presented_by(headers), False
    except Unauthenticated:
        key, torn = None, True
    given = headers.get("X-Request-Id", "")[:LONGEST_ID]
    brought = _key_headers(headers, table.server.header_prefix)
    return Visitor(
        sent=headers,
        key=key,
        digest=None if key is None else digest_of(key),
        torn=torn,
        client_id=given if given and given.isascii() and given.isprintable() else None,
        media_type=media_type(headers),
        ordinary=is_json(media_type(headers)) and not is_encoded(headers),
        expects=headers.get("Expect", "").lower() == "100-continue",
        hops=headers.get("x-pointsman-hops", ""),
        byok=_byok(brought, table.providers) if brought else NONE,
        misfit=_misfit(brought, table.providers, key) if brought else "",
        session=next((headers[name] for name in SESSION_HEADERS if name in headers), None),
        forwarded=tuple(headers.getall("X-Forwarded-For", ())),
    )


def presented_by(headers: CIMultiDictProxy[str]) -> str | None:
    """The key of ours that came along. Raises Unauthenticated where two came that differ."""
    return presented(*(headers.getall(name, ()) for name in KEY_HEADERS))


def _key_headers(headers: CIMultiDictProxy[str], prefix: str) -> list[tuple[str, str, str]]:
    """Keys that the caller brings, `<prefix>Key-<provider>` in any case: the header, the provider in lower case, the
    key."""
    start = f"{prefix}key-".lower()
    return [
        (name, lower.removeprefix(start), value.strip())
        for name, value in headers.items()
        if (lower := name.lower()).startswith(start) and value.strip()
    ]


def _byok(brought: Iterable[tuple[str, str, str]], providers: Iterable[str]) -> Mapping[str, Secret]:
    """By provider, as the table spells it."""
    keys = {provider: Secret(value) for _, provider, value in brought}
    return {name: keys[name.lower()] for name in providers if name.lower() in keys}


def _misfit(brought: Iterable[tuple[str, str, str]], providers: Iterable[str], key: str | None) -> str:
    """Why they cannot be meant. One for nobody would be ignored, and the house would pay for what its owner would."""
    known, seen = {name.lower(): name for name in providers}, dict[str, str]()
    for name, provider, value in brought:
        if value == key:
            return f"{name} holds the key of this gateway itself, which no provider gets."
        if provider not in known:
            near = get_close_matches(provider[:LONGEST_ID], known, n=3, cutoff=0.4)
            hint = (
                f"nearest: {', '.join(known[it] for it in near)}" if near else f"known are {', '.join(known.values())}"
            )
            return f"{name[:LONGEST_ID]}: no provider is called {provider[:LONGEST_ID]!r}; {hint}."
        if seen.setdefault(provider, value) != value:
            return f"{name} stands twice, with different keys."
    return ""


def media_type(headers: Mapping[str, str]) -> str:
    """Of the body."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_json(media_type: str) -> bool:
    return media_type in ("", "application/json") or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )


def is_encoded(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")
