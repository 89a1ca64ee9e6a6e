"""What goes to a provider: the client's bytes with the model's name spliced in, or the request in another dialect's
words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects import UPSTREAMS, Dialect, Upstream, coherence
from proxy.dialects.dialect import Mend, Operation
from proxy.errors import Unsupported
from proxy.record import frozen, record
from proxy.routing.facts import EXTENSIONS, extensions
from proxy.routing.table import Provider, Timeouts
from proxy.routing.world import Pick
from proxy.secret import Secret
from proxy.server import pictures
from proxy.server.call import Call
from proxy.server.clients.visitor import HOPS
from proxy.server.credentials import Credential
from proxy.server.upstream import Outgoing
from proxy.wire import json_text, multipart, splice
from proxy.wire.headers import left_behind, request_headers
from proxy.wire.paths import in_path

AGENT = "pointsman"
MOST_WAYS = 512  # that a snapshot remembers
JSON = "application/json"
_VERSION = re.compile(r"/v\d\w*(?:/|$)")
RUN_BY_PATH = frozenset({"model", "stream_options"})  # what has no place in a body whose model stands in the path


@record
class Prepared:
    """`native`: the client speaks the dialect, so bytes pass; else the answer is translated back."""

    outgoing: Outgoing
    dialect: Upstream
    native: bool
    asked_usage: bool = False  # we asked for the usage chunk, the client did not
    dropped: tuple[str, ...] = ()
    byok: bool = False
    operation: Operation | None = None  # None is a conversation
    mend: Mend | None = None  # what this request needs done to a good answer


def with_body(prepared: Prepared, body: bytes) -> Prepared:
    it = prepared.outgoing
    outgoing = Outgoing(it.path, it.headers, body, it.timeouts, it.method, it.rooted)
    return Prepared(
        outgoing, prepared.dialect, prepared.native, prepared.asked_usage, prepared.dropped, prepared.byok,
        prepared.operation, prepared.mend,
    )  # fmt: skip


@frozen
class Way:
    """How one candidate is asked by one credential for one surface, as far as the body has no say: the same for one
    request after the other."""

    dialect: Upstream
    native: bool
    runs: bool  # the model's name stands in the path, and no other
    asks_usage: bool  # wherever a stream is wanted whose client does not
    path: str
    headers: tuple[tuple[str, str], ...]
    timeouts: Timeouts
    operation: Operation | None
    left: tuple[str, ...]  # headers of the client's that stay behind, and are told


def choose_dialect(provider: Provider, surface: Dialect) -> Upstream:
    """The surface's own where the provider speaks it, else the provider's first."""
    spoken = [UPSTREAMS[name] for name in provider.dialects]
    return next((dialect for dialect in spoken if dialect.speaks == surface.speaks), spoken[0])


def prepare(call: Call, pick: Pick, credential: Credential, hops: str) -> Prepared:
    """Raises Unsupported where the provider's dialect cannot say what the client asks, InvalidRequest where the request
    cannot be read for translation."""
    way = _way(call, pick, credential, hops)
    dialect, headers = way.dialect, way.headers
    dropped, asked_usage = call.lost, False
    if way.native and isinstance(dialect, Dialect):
        asked_usage = call.framed and way.asks_usage and not call.wants_usage
        body = _spliced(call, dialect, None if way.runs else pick.candidate.native, include_usage=asked_usage)
    else:
        encoded = _encoded(call, dialect, pick)
        said = {name: value for name, value in encoded.body.items() if not (way.runs and name in RUN_BY_PATH)}
        body = json_text.write(said)
        dropped += encoded.dropped + way.left
        if encoded.headers:
            headers = _headers(call, pick, dialect, credential, hops, encoded.headers)
    operation = way.operation
    mend = None if operation is None or operation.mend_answer is None else operation.mend_answer(call.document)
    outgoing = Outgoing(way.path, headers, body, way.timeouts)
    return Prepared(outgoing, dialect, way.native, asked_usage, dropped, credential.byok, operation, mend)


def _way(call: Call, pick: Pick, credential: Credential, hops: str) -> Way:
    """Remembered, unless the caller's own key is in it, or the border of a form."""
    if credential.byok or call.form is not None:
        return _made_way(call, pick, credential, hops)
    known, plan, candidate = call.snapshot.ways, call.plan, pick.candidate
    profile = plan.profile if plan is not None else None
    same = (
        call.surface, candidate.provider, candidate.model, candidate.native, credential.index, call.stream, profile,
        call.decision.project, call.visitor.passing, hops,
    )  # fmt: skip
    way = known.get(same)
    if way is None:
        way = _made_way(call, pick, credential, hops)
        if len(known) >= MOST_WAYS:
            known.clear()
        known[same] = way
    return way


def _made_way(call: Call, pick: Pick, credential: Credential, hops: str) -> Way:
    surface, table, candidate = call.surface, call.snapshot.table, pick.candidate
    provider = table.providers[candidate.provider]
    dialect = choose_dialect(provider, call.dialect)
    native = dialect.speaks == call.dialect.speaks
    runs = dialect.runs_at is not None and dialect.runs_at(provider.base_url)
    if runs and surface.operation != "chat":
        raise Unsupported(f"{provider.name} is asked by its own API, which is spoken here for conversations alone.")
    path = dialect.path(surface.operation, candidate.native, call.stream)
    spoken = dialect if isinstance(dialect, Dialect) else None  # by clients as well
    asks = spoken.asks_usage if spoken is not None and not runs else None
    return Way(
        dialect,
        native,
        runs,
        asks is not None and asks(provider.name),
        f"/{in_path(candidate.native)}" if runs else behind_base(provider, path),
        _headers(call, pick, dialect, credential, hops),
        table.timeouts_for(
            provider.name,
            pick.info.terms_id,
            call.plan.profile if call.plan is not None else None,
            call.decision.project,
        ),
        spoken.operations.get(surface.operation) if spoken is not None else None,
        () if native and spoken is not None else left_behind(call.visitor.sent.items(), call.dialect.speaks),
    )


async def prepare_fetched(call: Call, pick: Pick, credential: Credential, hops: str, refused: Unsupported) -> Prepared:
    """Again, where the dialect takes a picture's bytes alone and `[fetch]` allows it: they are fetched first, once for
    a request, whoever of its candidates needs them. Else raises what `prepare` did."""
    settings = call.snapshot.table.fetch
    urls = pictures.urls_in(call.dialect.codec().decode_request(_asked(call, pick))) if settings.pictures else ()
    if not urls or call.pictures is not None:
        raise refused
    call.pictures = {}
    call.pictures = await pictures.fetched(urls, settings)
    return prepare(call, pick, credential, hops)


def _asked(call: Call, pick: Pick) -> Mapping[str, Any]:
    """Less the members that are ours."""
    own = extensions(call.document, call.request.headers)
    document = {name: value for name, value in call.document.items() if name not in own}
    return {"model": pick.candidate.native, **document}


def _spliced(call: Call, dialect: Dialect, native: str | None, *, include_usage: bool) -> bytes:
    """`native` None: the model stands in the path alone."""
    if native is not None and call.form is not None:
        return multipart.replace(call.body, call.form, "model", native)
    key = (native, dialect.mend_request is not None)
    found = call.bodies.get(key)
    if found is None and native is not None and _is_renamed_only(call, dialect, include_usage=include_usage):
        found = splice.renamed(call.body, native)
    if found is None:
        found = _rewritten(call, dialect, native, include_usage=include_usage)
    call.bodies[key] = found
    return found


def _rewritten(call: Call, dialect: Dialect, native: str | None, *, include_usage: bool) -> bytes:
    body, members = call.body, call.members
    if dialect.mend_request is not None and (mended := dialect.mend_request(call.document)) is not None:
        body, members = json_text.write(mended), None
    own = extensions(call.document, call.request.headers)
    drop = (own if native is not None else own | RUN_BY_PATH).intersection(call.document)
    return splice.rewrite(body, members, model=native, drop=drop, include_usage=include_usage)


def _is_renamed_only(call: Call, dialect: Dialect, *, include_usage: bool) -> bool:
    """Whether the model's name is all that differs, and its member known to stand once: nearly every request."""
    return (
        call.once
        and not include_usage
        and dialect.mend_request is None
        and "model" in call.document
        and EXTENSIONS.isdisjoint(call.document)
    )


def _encoded(call: Call, dialect: Upstream, pick: Pick) -> ir.Encoded:
    request = call.dialect.codec().decode_request(_asked(call, pick))
    coherence.check(request)
    if call.pictures:
        request = pictures.with_pictures(request, call.pictures)
    encoded = dialect.codec().encode_request(request, target_of(pick))
    if encoded.dropped and call.facts is not None and call.facts.preferences.require_parameters:
        raise Unsupported(
            f"provider.require_parameters is set, and {pick.candidate.provider} has no word for "
            f"{', '.join(encoded.dropped)}.",
            param="provider.require_parameters",
        )
    return encoded


def target_of(pick: Pick) -> ir.Target:
    return ir.Target(pick.candidate.native, pick.candidate.provider, pick.info.max_output)


def _headers(
    call: Call,
    pick: Pick,
    dialect: Upstream,
    credential: Credential,
    hops: str,
    extra: tuple[tuple[str, str], ...] = (),
) -> tuple[tuple[str, str], ...]:
    """Later ones replace earlier ones: the dialect's defaults, the client's that may pass, the table's, the
    credential."""
    native = dialect.speaks == call.dialect.speaks
    passed = request_headers(call.visitor.headers.items(), dialect.name, native, credential.byok)
    kind = JSON if call.form is None else call.request.headers["Content-Type"]
    own = (*passed, *extra, ("Content-Type", kind), ("Accept", _accepted(call)))
    return _merged(call.snapshot.table.providers[pick.candidate.provider], dialect, credential.secret, own, hops)


def _merged(
    provider: Provider, dialect: Upstream, key: Secret | None, own: tuple[tuple[str, str], ...], hops: str
) -> tuple[tuple[str, str], ...]:
    merged: dict[str, tuple[str, str]] = {}
    for name, value in (
        *dialect.fixed_headers,
        *own,
        ("Accept-Encoding", "identity"),
        ("User-Agent", AGENT),
        (HOPS, hops),
        *((name, secret.reveal()) for name, secret in provider.headers.items()),
        *(dialect.credential(key.reveal()) if key is not None else ()),
    ):
        merged[name.lower()] = (name, value)
    return tuple(merged.values())


def _accepted(call: Call) -> str:
    if call.stream:
        return "text/event-stream"
    return "*/*" if call.operation is not None and call.operation.opaque else JSON


def behind_base(provider: Provider, path: str) -> str:
    """Vendors' SDKs differ in whether the base URL ends in /v1; local servers are named either way. One /v1, not
    two. The same for Ollama's /api and for Gemini's /v1beta, which Vertex AI has in the middle, and by another name."""
    base = provider.base_url
    ends = base.endswith("/v1")
    if path.startswith("/v1/") and ends:
        return path.removeprefix("/v1")
    if path.startswith("/v1beta/") and _VERSION.search(base):
        return path.removeprefix("/v1beta")
    if path.startswith("/api/") and base.endswith("/api"):
        return path.removeprefix("/api")
    if provider.local and not ends and not path.startswith(("/v1/", "/v1beta/", "/api/")):
        return f"/v1{path}"
    return path
