"""One model of the catalog, as routing, accounts and `/v1/models` see it."""

from __future__ import annotations

from attrs import field, validators

from proxy.catalog.price import Price
from proxy.record import frozen

CAPABILITIES = frozenset(
    {"code", "reasoning", "vision", "audio", "files", "tools", "parallel_tools", "json", "thinking", "images"}
)

_score = validators.optional(validators.and_(validators.ge(0), validators.le(100)))


@frozen
class ModelInfo:
    """What is known of a model. None is unknown: it excludes nothing, and sorts last where an order needs it."""

    id: str  # as a client writes it
    provider: str
    native: str  # the provider's own name for it
    context: int | None = None  # tokens of input and output together
    max_output: int | None = None  # tokens
    price: Price | None = None
    price_source: str | None = None  # "table", "provider", "prices@<snapshot>", "local", None when unpriced
    capabilities: frozenset[str] | None = field(default=None)  # None excludes nothing, the empty set much
    guessed: bool = False  # capabilities by the family that the name speaks of; nobody said so
    context_guessed: bool = False  # neither table nor provider said it
    quality: int | None = field(default=None, validator=_score)  # 0 to 100, the operator's judgement or a prior
    reasoning: int | None = field(default=None, validator=_score)  # 0 to 100
    local: bool = False  # on the operator's own machines: nothing leaves the house
    listed_as: str | None = None  # the id of this very model in the table, where it goes by another name
    chat: bool = True  # False: it embeds, ranks or draws, and no strategy chooses it for a conversation

    @property
    def terms_id(self) -> str:
        """By which the table's limits and timeouts hold."""
        return self.listed_as or self.id

    @capabilities.validator
    def _known(self, _: object, value: frozenset[str] | None) -> None:
        if unknown := (value or frozenset()) - CAPABILITIES:
            known = ", ".join(sorted(CAPABILITIES))
            raise ValueError(f"{self.id}: no such capability: {', '.join(sorted(unknown))}; there are {known}")
