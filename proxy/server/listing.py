"""`GET /v1/models`: what a caller may write into `model`, in OpenAI's shape with OpenRouter's fields, or in
Anthropic's.

Listed are the models that could be called now and those that their provider listed lately and no more (`state` "gone",
told in OpenAI's shape alone: Anthropic's has no word for it), aliases, profiles and `auto`; with `?directives=true`
also `industry:` and `strategy:`. A model by its id is shown even where its provider lacks a key; its `state` says so.
Patterns are no names and are not listed. A caller with a project sees what the project may use, the models of
providers for which only it has a key among them; a key that comes with the request counts here as it does there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from aiohttp.web_response import Response

from proxy.catalog import ModelInfo, Price
from proxy.errors import UnknownModel
from proxy.record import frozen
from proxy.routing import directive
from proxy.routing.directive import STRATEGIES
from proxy.routing.names import DEEPEST, Candidate, is_known, nearest
from proxy.routing.table import Project, Provider
from proxy.routing.world import World
from proxy.server.clients.inbound import PlainRequest
from proxy.server.clients.listener import json_response, raw_path, refusal
from proxy.server.snapshot import Snapshot

CREATED = 1_735_689_600  # the catalog knows no birthdays; clients want a number
CREATED_AT = "2025-01-01T00:00:00Z"
MOST = 1000
PICO = Decimal(10) ** 12
# Capabilities in OpenRouter's words: https://openrouter.ai/docs/api-reference/models/get-models
READS = {"vision": "image", "files": "file", "audio": "audio"}
PARAMETERS = {
    "tools": ("tools", "tool_choice"),
    "parallel_tools": ("parallel_tool_calls",),
    "json": ("response_format",),
    "thinking": ("reasoning",),
}
Entry = dict[str, Any]


@frozen
class Viewer:
    """Who asks. `own` are the providers for which there is a key of its own, stored or brought; `locked` those whose
    stored key does not open."""

    project: str | None = None
    own: Collection[str] = ()
    locked: Collection[str] = ()


def list_models(snapshot: Snapshot, request: PlainRequest, now: float, viewer: Viewer) -> Response:
    directives = request.query.get("directives") == "true"
    entries = list(_entries(snapshot, now, viewer, directives=directives))
    if "anthropic-version" in request.headers:
        return json_response(_page((entry for entry in entries if entry["state"] != "gone"), request.query))
    return json_response({"object": "list", "data": entries})


def show_model(snapshot: Snapshot, request: PlainRequest, now: float, viewer: Viewer) -> Response:
    name = unquote(raw_path(request).removeprefix("/v1/models/"))
    known = {entry["id"]: entry for entry in _entries(snapshot, now, viewer, every=True, directives=True)}
    entry = known.get(snapshot.world.models.also.get(name, name))
    if entry is None:
        near = nearest(name, snapshot.table, known)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        return refusal(request, UnknownModel(f"No model has the id {name[:100]!r}.{hint}", param="model"))
    return json_response(_anthropic(entry) if "anthropic-version" in request.headers else entry)


def _entries(
    snapshot: Snapshot, now: float, viewer: Viewer, *, every: bool = False, directives: bool = False
) -> Iterator[Entry]:
    """What the viewer may use; without a project, everything."""
    table, world = snapshot.table, snapshot.world
    listed, usable = world.models.listed, set[str]()
    bounds = table.projects.get(viewer.project) if viewer.project is not None else None
    for id, info in listed.items():
        if (
            bounds is not None
            and bounds.objection(table.providers[info.provider], world.models.names(info)) is not None
        ):
            continue
        state = _state(world, info, now, viewer)
        if state in ("ready", "cooling"):
            usable.add(id)
        if id in usable or state == "gone" or (every and state != "disabled"):
            yield _described(world, info, state)
    alone = table.first_run and not any(name in table.providers for name in viewer.own)  # the embedded provider joins
    chosen = [id for id in usable if alone or not table.providers[listed[id].provider].embedded]
    lead = _Leading(world, bounds, viewer, alone, usable, chosen)
    every_name = every and bounds is None
    for alias, targets in table.aliases.items():
        if every_name or any(map(lead.anywhere, targets)):
            yield _named(alias, {"alias_of": list(targets), "state": "ready"})
    for name, profile in table.profiles.items():
        if every_name or lead.anywhere(f"profile:{name}"):
            yield _named(f"profile:{name}", {"candidates": list(profile.models), "state": "ready"})
    if usable:
        yield _named("auto", {"description": "Chosen by what the prompt asks for.", "state": "ready"})
    if not directives:
        return
    for tag, industry in table.industries.items():
        if every_name or lead.anywhere(f"industry:{tag}"):
            yield _named(f"industry:{tag}", {"candidates": list(industry.models), "state": "ready"})
    for name in STRATEGIES:
        if every_name or lead.anywhere(f"strategy:{name}"):
            yield _named(f"strategy:{name}", {"state": "ready"})


@frozen
class _Leading:
    """Which names lead to a model that could be called now, be it by other names."""

    world: World
    bounds: Project | None
    viewer: Viewer
    alone: bool  # no provider is configured: the embedded one joins wherever a choice is left
    usable: Collection[str]  # ids
    chosen: Collection[str]  # of these, whom the gateway may choose

    def anywhere(self, name: str, depth: int = 0) -> bool:
        table, models = self.world.table, self.world.models
        entry = directive.parse(name, is_known(table, models.listed))
        if entry.kind != "name" and self.alone:
            return bool(self.chosen)
        match entry.kind:
            case "auto":
                return bool(self.chosen)
            case "strategy":
                return any(entry.name != "local" or models.listed[id].local for id in self.chosen)
            case "industry":
                targets = table.industries[entry.name].models if entry.name in table.industries else ()
            case "profile":
                targets = table.profiles[entry.name].models if entry.name in table.profiles else ()
            case _:
                if (meaning := models.meaning(entry.name)) is None:
                    return False
                if meaning.info is not None:
                    return meaning.info.id in self.usable or self._callable(meaning.info)
                targets = meaning.targets
        return depth < DEEPEST and any(self.anywhere(target, depth + 1) for target in targets)

    def _callable(self, info: ModelInfo) -> bool:
        """Of a model that only a pattern or its provider's name covers."""
        provider = self.world.table.providers[info.provider]
        if info.id in self.world.models.listed or not _has_key(provider, self.viewer):
            return False
        return self.bounds is None or self.bounds.objection(provider, self.world.models.names(info)) is None


def _named(id: str, more: Mapping[str, Any]) -> Entry:
    head = {"id": id, "object": "model", "created": CREATED, "owned_by": "pointsman", "name": id, "display_name": id}
    return {**head, **more}


def _has_key(provider: Provider, viewer: Viewer) -> bool:
    """Whether the viewer's requests may reach it: with the house's key or with their own."""
    if provider.name in viewer.locked or not provider.enabled or provider.missing:
        return False
    return provider.name in viewer.own or not provider.missing_key


def _state(world: World, info: ModelInfo, now: float, viewer: Viewer) -> str:
    """ready, cooling, gone, not_configured, disabled."""
    provider = world.table.providers[info.provider]
    if not provider.enabled:
        return "disabled"
    if not _has_key(provider, viewer):
        return "not_configured"
    if info.id in world.models.gone:
        return "gone"
    candidate = Candidate(info.id, info.provider, info.native)
    return "cooling" if world.wait(candidate, now, byok=provider.name in viewer.own) else "ready"


def _described(world: World, info: ModelInfo, state: str) -> Entry:
    seen = world.latencies.get(info.provider, info.id)
    return {
        "id": info.id,
        "object": "model",
        "created": CREATED,
        "owned_by": info.provider,
        "name": info.id,
        "display_name": info.id,  # where Claude Code looks, whichever of the two shapes it gets
        "provider": info.provider,
        "native": info.native,
        "context_length": info.context,
        "max_output": info.max_output,
        "pricing": _pricing(info.price),
        "price_source": info.price_source,
        "architecture": _architecture(info),
        "supported_parameters": _parameters(info),
        "top_provider": {"context_length": info.context, "max_completion_tokens": info.max_output},
        "capabilities": sorted(info.capabilities) if info.capabilities is not None else None,
        "quality": info.quality,
        "reasoning": info.reasoning,
        "local": info.local,
        "state": state,
        "ttft_ms": {"p50": round(seen.percentile(0.5)), "p95": round(seen.percentile(0.95))} if seen else None,
        "tokens_per_s": round(seen.tokens_per_s, 1) if seen and seen.tokens_per_s is not None else None,
    }


def _architecture(info: ModelInfo) -> dict[str, list[str]] | None:
    """None where nobody knows, and of a model that is for no conversation."""
    if info.capabilities is None or not info.chat:
        return None
    return {
        "input_modalities": ["text", *(word for name, word in READS.items() if name in info.capabilities)],
        "output_modalities": ["text", *(["image"] if "images" in info.capabilities else [])],
    }


def _parameters(info: ModelInfo) -> list[str] | None:
    """Those that a capability stands for; what else a provider takes is not in the catalog."""
    if info.capabilities is None:
        return None
    return [word for name, words in PARAMETERS.items() if name in info.capabilities for word in words]


def _pricing(price: Price | None) -> dict[str, str] | None:
    """USD per token as decimal strings, as OpenRouter has them."""
    if price is None:
        return None
    rates = {
        "prompt": price.input,
        "completion": price.output,
        "input_cache_read": price.cache_read,
        "input_cache_write": price.cache_write_5m,
    }
    return {name: f"{(Decimal(rate) / PICO).normalize():f}" for name, rate in rates.items() if rate is not None}


# -- Anthropic's shape -------------------------------------------------------------------------------------------


def _anthropic(entry: Entry) -> Entry:
    return {"type": "model", "id": entry["id"], "display_name": entry["name"], "created_at": CREATED_AT}


def _page(entries: Iterable[Entry], query: Mapping[str, str]) -> Entry:
    """https://docs.anthropic.com/en/api/models-list: `limit`, `after_id`, `before_id`."""
    models = [_anthropic(entry) for entry in entries]
    ids = [model["id"] for model in models]
    limit = min(max(int(query["limit"]), 1), MOST) if query.get("limit", "").isdecimal() else 20
    start = ids.index(query["after_id"]) + 1 if query.get("after_id") in ids else 0
    if query.get("before_id") in ids:
        start = max(0, ids.index(query["before_id"]) - limit)
    page = models[start : start + limit]
    return {
        "data": page,
        "has_more": start + limit < len(models),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }
