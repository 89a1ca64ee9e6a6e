"""routes.toml as values: what each section may hold, with its defaults. Immutable; one request keeps one table.

Owns the shape only. Reading the file, resolving `${VARIABLES}` and refusing nonsense is `routing.loading`.
Durations are seconds, sizes bytes, prices `Decimal` USD per million tokens.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, NewType

from attrs import asdict, evolve, field

from proxy.record import frozen
from proxy.secret import Secret

Duration = NewType("Duration", float)  # seconds; infinity is "off"
Size = NewType("Size", int)  # bytes
Share = NewType("Share", float)  # 0 to 1

OFF = Duration(float("inf"))
LABELS = ("code", "reasoning", "summarization", "extraction", "long-context", "chat")
SYNONYMS = {"coding": "code", "summary": "summarization"}
CAPABILITIES = frozenset(
    {"code", "reasoning", "vision", "audio", "files", "tools", "parallel_tools", "json", "thinking", "images"}
)
NEEDS = CAPABILITIES - {"code", "reasoning"}  # what a request can show that it needs; those two are the classifier's
ENDPOINTS = ("chat", "embeddings", "images", "audio", "moderations", "completions", "rerank")


@frozen
class Server:
    listen: tuple[str, ...] = ("127.0.0.1:8080",)
    admin: str = "127.0.0.1:8081"
    header_prefix: str = "X-Nyuro-"
    auth: Literal["keys", "none"] = "keys"
    key_prefix: str = "neu"
    trusted_proxies: tuple[str, ...] = ()
    reserve_output: int = 4096  # tokens
    budget_webhook: str | None = field(default=None, repr=False)
    master_key: str = field(default="${POINTSMAN_MASTER_KEY}", repr=False)
    former_master_key: str | None = field(default=None, repr=False)
    max_body: Size = Size(32 << 20)
    body_timeout: Duration = Duration(60.0)
    header_timeout: Duration = Duration(30.0)
    keep_alive: Duration = Duration(75.0)
    drain: Duration = Duration(30.0)
    concurrency: int = 4000  # requests under way
    queue: int = 1000  # requests that wait for one of these places
    queue_wait: Duration = Duration(5.0)
    body_memory: Size = Size(512 << 20)  # of all requests' bodies together
    memory: Size | None = None  # of the process; None is a share of what the kernel allows it
    exchange: Literal["lean", "plain"] = "lean"
    state: str | None = None
    workers: int = 1
    ledger_days: int = 90
    ledger_bytes: Size = Size(2 << 30)


@frozen
class Timeouts:
    connect: Duration = Duration(5.0)
    first_event: Duration = Duration(60.0)
    first_content: Duration = Duration(300.0)
    answer: Duration = Duration(600.0)
    idle: Duration = Duration(120.0)
    total: Duration = Duration(3600.0)
    commit_after: Duration = OFF
    queue: Duration = Duration(10.0)
    min_rate: int = 0  # bytes per second

    def overridden(self, *layers: TimeoutOverrides | None) -> Timeouts:
        """Later layers win; what a layer leaves out stays."""
        changed: dict[str, Any] = {}
        for layer in layers:
            if layer is not None:
                changed |= {name: value for name, value in _given(layer).items() if value is not None}
        return evolve(self, **changed) if changed else self


@frozen
class TimeoutOverrides:
    connect: Duration | None = None
    first_event: Duration | None = None
    first_content: Duration | None = None
    answer: Duration | None = None
    idle: Duration | None = None
    total: Duration | None = None
    commit_after: Duration | None = None
    queue: Duration | None = None
    min_rate: int | None = None


def _given(layer: TimeoutOverrides) -> dict[str, Any]:
    return asdict(layer)


def merged(*layers: TimeoutOverrides | None) -> TimeoutOverrides | None:
    """Several layers as one; later ones win."""
    said: dict[str, Any] = {}
    for layer in layers:
        if layer is not None:
            said |= {name: value for name, value in _given(layer).items() if value is not None}
    return TimeoutOverrides(**said) if said else None


@frozen
class Retry:
    tries: int = 2
    attempts: int = 5
    deadline: Duration = Duration(90.0)
    cost: Decimal | None = None  # USD of all attempts together that a provider may bill, at their worst


@frozen
class HealthLimits:
    """When a candidate rests, and for how long."""

    failures: int = 3  # in a row
    share: Share = Share(0.5)  # of at least `volume` attempts
    volume: int = 20
    window: Duration = Duration(60.0)  # in which both are counted
    rest: Duration = Duration(30.0)  # the first; doubles with each further one
    longest: Duration = Duration(300.0)


@frozen
class Fetch:
    """Pictures that a request names by URL, for providers that take nothing but bytes."""

    pictures: bool = False
    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    most: int = 8  # of one request
    size: Size = Size(10 << 20)  # of each
    time: Duration = Duration(10.0)  # for each


@frozen
class Routing:
    """How the resolver behaves beyond what a request says."""

    affinity: Duration = Duration(300.0)  # a conversation stays where its cache is warm for so long; OFF
    explore: Share = Share(0.02)  # of latency-routed traffic, for the unobserved and the stale


@frozen
class Provider:
    """An upstream. `missing` says what keeps it from being called; empty when it is ready."""

    name: str
    dialects: tuple[str, ...]
    base_url: str = ""
    credentials: tuple[Secret, ...] = ()
    keyless: bool = False
    missing_key: str = ""  # "OPENAI_API_KEY is not set": a caller's own key mends it
    missing: str = ""  # "OLLAMA_BASE_URL is not set": nothing a caller sends mends it
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ("chat",)
    local: bool = False
    enabled: bool = True
    embedded: bool = False
    discover: Duration | None = None
    probe: Duration | None = None
    probe_path: str | None = None  # behind the host; None is the dialect's list of models
    connections: int = 256
    queue: int = 1000
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    proxy: Secret | None = None
    headers: Mapping[str, Secret] = field(factory=dict)
    timeouts: TimeoutOverrides | None = None

    @property
    def configured(self) -> bool:
        return self.enabled and not self.missing and not self.missing_key


@frozen
class PriceEntry:
    """USD per million tokens. A class left out is billed like `input` (caches) or is unknown (output)."""

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None


@frozen
class Budget:
    """What a key or a project may spend: USD in a period, which begins at a midnight in UTC."""

    limit: Decimal
    period: Literal["none", "daily", "weekly", "monthly"] = "none"
    alert: Share | None = None
    unpriced: Literal["refuse", "allow"] = "refuse"


@frozen
class Limits:
    """Of a key, a project or a model; None is no limit."""

    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None


@frozen
class ModelEntry:
    id: str
    provider: str
    native: str
    context: int | None = None
    max_output: int | None = None
    price: PriceEntry | None = None
    capabilities: frozenset[str] | None = None
    quality: int | None = None
    reasoning: int | None = None
    timeouts: TimeoutOverrides | None = None
    limits: Limits | None = None


@frozen
class Auto:
    """Class label -> ordered entries. A class that is absent uses `chat`'s."""

    lists: Mapping[str, tuple[str, ...]] = field(factory=dict)
    safe: str = "chat"


@frozen
class Industry:
    models: tuple[str, ...]


@frozen
class ProfileCandidate:
    """`weight` None: stands where it stands. Weighted neighbours form one group, drawn by weight."""

    model: str
    weight: int | None = None


@frozen
class Profile:
    candidates: tuple[ProfileCandidate, ...]
    sort: str | None = None
    max_price: Decimal | None = None
    sticky: bool = False  # the draw is made once per conversation
    content_policy: Literal["stop", "next"] = "stop"  # what a provider's content filter does to the chain
    byok_fallback: bool = False  # a caller's own key may be followed by the house's
    timeouts: TimeoutOverrides | None = None

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(candidate.model for candidate in self.candidates)


@frozen
class Project:
    """What holds for a project, its parents' word included. `models` are lists of names and patterns, every one of
    which has to have a model; `providers` None is any."""

    name: str
    parent: str | None = None
    providers: frozenset[str] | None = None
    models: tuple[tuple[str, ...], ...] = ()
    disabled: tuple[str, ...] = ()  # providers, models and patterns
    local_only: bool = False
    profile: str | None = None
    max_price: Decimal | None = None
    timeouts: TimeoutOverrides | None = None
    headers: Mapping[str, str] = field(factory=dict)  # lower-case names
    budget: Budget | None = None
    limits: Limits | None = None

    def objection(self, provider: Provider, names: tuple[str, ...]) -> str | None:
        """Why it may not use this provider's model, which may be asked for by any of these names; None where it may."""
        if self.providers is not None and provider.name not in self.providers:
            return f"the project {self.name} may not use the provider {provider.name}"
        if self.local_only and not (provider.local or provider.embedded):
            return f"the project {self.name} stays on local providers"
        if any(_among(names, allowed) is None for allowed in self.models):
            return f"the project {self.name} may not use this model"
        if (entry := _among((provider.name, *names), self.disabled)) is not None:
            return f"{entry} is disabled in the project {self.name}"
        return None


def _among(names: tuple[str, ...], entries: tuple[str, ...]) -> str | None:
    """The first entry that is one of the names, or a pattern of one."""
    for entry in entries:
        if entry in names or (entry.endswith("*") and any(name.startswith(entry[:-1]) for name in names)):
            return entry
    return None


@frozen
class Band:
    min: Decimal | None = None
    max: Decimal | None = None

    def holds(self, value: float | Decimal) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


@frozen
class Rule:
    """All conditions given must hold. `use` replaces what the request asked for."""

    name: str
    use: tuple[str, ...]
    models: tuple[str, ...] = ()
    tokens: Band | None = None
    keywords: tuple[str, ...] = ()
    industries: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()  # of the prompt, as `auto` tells it
    cost: Band | None = None
    projects: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(factory=dict)
    endpoints: tuple[str, ...] = ()


@frozen
class Table:
    """All of routes.toml, resolved and checked. `revision` is the file's digest."""

    revision: str
    server: Server = field(factory=Server)
    timeouts: Timeouts = field(factory=Timeouts)
    retry: Retry = field(factory=Retry)
    health: HealthLimits = field(factory=HealthLimits)
    fetch: Fetch = field(factory=Fetch)
    routing: Routing = field(factory=Routing)
    providers: Mapping[str, Provider] = field(factory=dict)
    models: Mapping[str, ModelEntry] = field(factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(factory=dict)
    auto: Auto = field(factory=Auto)
    industries: Mapping[str, Industry] = field(factory=dict)
    profiles: Mapping[str, Profile] = field(factory=dict)
    rules: tuple[Rule, ...] = ()
    projects: Mapping[str, Project] = field(factory=dict)
    budget_webhook: Secret | None = None
    master_key: Secret | None = None  # wraps the data key of what projects store
    former_master_key: Secret | None = None  # opens what it wrapped, once more
    no_master_key: str = ""  # what is not set
    warnings: tuple[str, ...] = ()

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Every secret of the file, for the scrubber."""
        found: list[Secret] = []
        for provider in self.providers.values():
            found += [*provider.credentials, *provider.headers.values()]
            if provider.proxy is not None:
                found.append(provider.proxy)
        ours = (self.budget_webhook, self.master_key, self.former_master_key)
        return (*found, *(secret for secret in ours if secret is not None))

    @property
    def first_run(self) -> bool:
        """Not one provider but the embedded one is configured: then, and only then, it joins `auto` and the like."""
        return not any(p.configured for p in self.providers.values() if not p.embedded)

    def timeouts_for(self, provider: str, model: str, profile: str | None, project: str | None = None) -> Timeouts:
        """Global, then the provider's, the model's, the profile's, the project's."""
        entry = self.models.get(model)
        return self.timeouts.overridden(
            self.providers[provider].timeouts if provider in self.providers else None,
            entry.timeouts if entry else None,
            self.profiles[profile].timeouts if profile is not None and profile in self.profiles else None,
            self.projects[project].timeouts if project is not None and project in self.projects else None,
        )


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be reached from this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
