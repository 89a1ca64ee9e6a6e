"""What routing may look at in one request: the body's routing members and headers, and its shape.

Pure: the surface parses the body once and hands the result over. The members named in `EXTENSIONS` are ours and never
reach a provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from attrs import asdict, field, frozen

from proxy import ir
from proxy.errors import InvalidRequest, MissingModel
from proxy.record import record
from proxy.routing.classifier import Classified
from proxy.routing.directive import LONGEST, parse_sort, parse_usd, shown

EXTENSIONS = frozenset({"models", "fallbacks", "route", "sort", "max_price", "provider"})
MOST_ENTRIES = 64  # different ones of a request that are resolved; the chain itself is capped at 16
PREFERENCES = ("order", "only", "ignore", "allow_fallbacks", "sort", "max_price", "require_parameters")
PARTITIONS = ("model", "none")  # of `provider.sort`: within each entry, or the whole chain
OPENROUTER_ONLY = frozenset(
    {
        "data_collection",
        "zdr",
        "enforce_distillable_text",
        "quantizations",
        "preferred_min_throughput",
        "preferred_max_latency",
        "experimental",
    }
)
CHARS_PER_TOKEN = 4
TOKENS_PER_MEDIUM = 800  # a picture of middling size; a guess for the estimate only
RECORDED_DIGITS = 4  # of a conversation's key: a sticky draw goes by them, and they tell no two conversations apart


@frozen
class Ceiling:
    """`total` USD for this request's worst case, or OpenRouter's USD per million tokens."""

    total: Decimal | None = None
    prompt: Decimal | None = None
    completion: Decimal | None = None


@frozen(cache_hash=True)
class Preferences:
    """OpenRouter's `provider` object. https://openrouter.ai/docs/features/provider-routing"""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    require_parameters: bool = False


NO_PREFERENCES = Preferences()


@frozen
class Wishes:
    """What a request says of who shall serve it. `headers` None: none of them has a say."""

    wanted: tuple[str, ...]
    sort: str | None = None
    partitioned: bool = False
    ceiling: Ceiling | None = None
    preferences: Preferences = NO_PREFERENCES
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    default_ceiling: bool = False


@frozen
class Past:
    """What a decision of the past said of the request's words, which no record keeps."""

    klass: Classified | None = None  # None: nobody asked for its class
    rule: str | None = None  # the rule that matched


@record
class Facts:
    """One request as routing sees it. `wanted` are the entries in order, `model` first."""

    surface: str
    dialect: str
    endpoint: str
    wanted: tuple[str, ...]
    shape: ir.Shape = field(repr=False)
    tokens: int  # estimated input
    stream: bool = False
    sort: str | None = None
    partitioned: bool = False  # the sort leaves the entries in their order, and sorts what each stands for
    ceiling: Ceiling | None = None
    preferences: Preferences = NO_PREFERENCES
    industry: str | None = None
    headers: Mapping[str, str] = field(factory=dict, repr=False)  # lower-case names
    project: str | None = None
    conversation: str | None = None  # affinity key; see routing.affinity
    continues: bool = False  # the conversation has begun before: it has a session, or earlier turns
    priced_only: bool = False  # a budget is charged, and takes nothing whose price is unknown
    byok: frozenset[str] = frozenset()  # providers for which the caller brought a key
    locked: frozenset[str] = frozenset()  # providers for which its project has a key that does not open
    default_ceiling: bool = False  # the ceiling is the project's, and gives way to one of the request's own entries
    past: Past | None = None  # of a recorded request: stands for its turns and headers, which are empty

    @property
    def requested(self) -> str:
        return ",".join(self.wanted)

    def as_json(self) -> dict[str, Any]:
        """What the record keeps so that the request can be planned again; `routing.recorded` reads it. Built in the
        ledger's thread. No text, no header, no key; what says nothing is left out."""
        shape, wishes = self.shape, self.preferences
        said = {
            "wanted": self.wanted,
            "max_tokens": shape.max_tokens,
            "n": shape.n if shape.n != 1 else None,
            "sort": self.sort,
            "partitioned": self.partitioned or None,
            "ceiling": {name: str(usd) for name, usd in asdict(self.ceiling).items() if usd is not None}
            if self.ceiling
            else None,
            "default_ceiling": self.default_ceiling or None,
            "preferences": asdict(wishes) if wishes != NO_PREFERENCES else None,
            "industry": self.industry,
            "byok": sorted(self.byok),
            "priced_only": self.priced_only or None,
            "locked": sorted(self.locked),
            "cache_write": shape.cache_write,
            "conversation": self.conversation[:RECORDED_DIGITS] if self.conversation else None,
        }
        always = {
            "tokens_estimated": self.tokens,
            "needs": sorted(shape.needs),
            "dialect": self.dialect,
            "endpoint": self.endpoint,
        }
        return always | {name: value for name, value in said.items() if value or value == 0}


def extensions(body: Mapping[str, Any], headers: Mapping[str, str]) -> frozenset[str]:
    """The members of our own in this request. Anthropic has `fallbacks` too, behind a beta or as "default": it tries
    them by itself, and gets what its client wrote.
    https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback
    """
    theirs = body.get("fallbacks") == "default" or "server-side-fallback" in headers.get("anthropic-beta", "")
    return EXTENSIONS - {"fallbacks"} if theirs else EXTENSIONS


def of_name(body: Mapping[str, Any]) -> Wishes | None:
    """Of a body that names a model and has none of our own members, as nearly all do; None for any other. The same for
    all that name the same."""
    model = body.get("model")
    if model.__class__ is not str or len(model) > LONGEST or not EXTENSIONS.isdisjoint(body):
        return None
    return _name_alone(model)


@lru_cache(maxsize=512)
def _name_alone(model: str) -> Wishes | None:
    return Wishes((model,)) if model.strip() else None


def read_stream(body: Mapping[str, Any]) -> bool:
    """The same reading for gateway and upstream, so only a real boolean."""
    stream = body.get("stream")
    if stream is None or isinstance(stream, bool):
        return bool(stream)
    raise InvalidRequest(f"stream is true or false, not {shown(stream)}.", param="stream")


def read_wanted(
    body: Mapping[str, Any], headers: Mapping[str, str], prefix: str, default: str | None
) -> tuple[str, ...]:
    """The entries that the request names, and the default where it names none. A profile by header stands in for
    `model`; `models` by header for the body's. `fallbacks` of the body come last."""
    profile = headers.get(f"{prefix}profile", "").strip().removeprefix("profile:")
    named = body.get("model")
    model = f"profile:{profile}" if profile else named
    listed = headers.get(f"{prefix}models")
    fallbacks = body.get("fallbacks") if "fallbacks" in extensions(body, headers) else None
    more = (*(_from_header(listed) if listed else _models(body.get("models"))), *_fallbacks(fallbacks))
    if (route := body.get("route")) not in (None, "fallback"):
        raise InvalidRequest(f'route is "fallback", not {shown(route)}.', param="route")
    if model is None and more:
        return tuple(dict.fromkeys(more))[:MOST_ENTRIES]
    if model is None:
        model = default
    if model is None or model == "":
        raise MissingModel(
            'model is missing: name a model, an alias or "auto". GET /v1/models lists what there is.', param="model"
        )
    return tuple(dict.fromkeys((_entry(model, "model"), *more)))[:MOST_ENTRIES]


def _entry(value: Any, param: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{param} is a string that names a model, not {shown(value)}.", param=param)
    if len(value) > LONGEST:
        raise InvalidRequest(f"{param} has {len(value)} characters; a name has {LONGEST} at most.", param=param)
    return value


def _models(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest(f"models is a list of model names, not {shown(value)}.", param="models")
    return tuple(_entry(item, f"models[{number}]") for number, item in enumerate(value))


def _fallbacks(value: Any) -> tuple[str, ...]:
    """Entries of `{"model": …}`, as OpenRouter's Messages have them. https://openrouter.ai/docs/guides/routing"""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest(f"fallbacks is a list of objects, not {shown(value)}.", param="fallbacks")
    named: list[str] = []
    for number, item in enumerate(value[:MOST_ENTRIES]):
        param = f"fallbacks[{number}]"
        if not isinstance(item, dict) or item.keys() - {"model"}:
            raise InvalidRequest(f"{param} is an object with a model and nothing else.", param=param)
        named.append(_entry(item.get("model"), f"{param}.model"))
    return tuple(named)


def _from_header(value: str) -> tuple[str, ...]:
    """Commas part the entries; suffixes inside an entry use semicolons."""
    return tuple(_entry(piece.strip(), "models") for piece in value.split(",") if piece.strip())


def read_sort(body: Mapping[str, Any], headers: Mapping[str, str], prefix: str) -> str | None:
    """Header over body over the `provider` object's."""
    if header := headers.get(f"{prefix}sort"):
        return parse_sort(header, f"{prefix}sort")
    if body.get("sort") is not None:
        return parse_sort(body["sort"], "sort")
    provider = body.get("provider")
    inner = provider.get("sort") if isinstance(provider, dict) else None
    if isinstance(inner, dict):
        for key in inner:
            if key not in ("by", "partition"):
                raise InvalidRequest(
                    f"provider.sort has no key {shown(key)}; known are by, partition.", param="provider.sort"
                )
        if inner.get("partition") not in (None, *PARTITIONS):
            given = shown(inner["partition"])
            raise InvalidRequest(
                f"provider.sort.partition is one of {', '.join(PARTITIONS)}, not {given}.",
                param="provider.sort.partition",
            )
        inner = inner.get("by")
    return None if inner is None else parse_sort(inner, "provider.sort")


def read_partition(body: Mapping[str, Any], headers: Mapping[str, str], prefix: str) -> bool:
    """Whether the sort in force is one of `provider.sort` that leaves the entries where they stand."""
    if headers.get(f"{prefix}sort") or body.get("sort") is not None:
        return False
    provider = body.get("provider")
    inner = provider.get("sort") if isinstance(provider, dict) else None
    return isinstance(inner, dict) and inner.get("partition") == "model"


def read_ceiling(body: Mapping[str, Any], headers: Mapping[str, str], prefix: str) -> Ceiling | None:
    if header := headers.get(f"{prefix}max-price"):
        return Ceiling(parse_usd(header, f"{prefix}max-price"))
    provider = body.get("provider")
    for param, value in (
        ("max_price", body.get("max_price")),
        ("provider.max_price", provider.get("max_price") if isinstance(provider, dict) else None),
    ):
        if isinstance(value, dict):
            return _per_million(value, param)
        if value is not None:
            return Ceiling(parse_usd(value, param))
    return None


def _per_million(value: Mapping[str, Any], param: str) -> Ceiling:
    for key in value:
        if key not in ("prompt", "completion"):
            raise InvalidRequest(f"{param} has no key {shown(key)} here; known are prompt, completion.", param=param)
    prompt, completion = value.get("prompt"), value.get("completion")
    return Ceiling(
        prompt=None if prompt is None else parse_usd(prompt, f"{param}.prompt"),
        completion=None if completion is None else parse_usd(completion, f"{param}.completion"),
    )


def read_preferences(body: Mapping[str, Any]) -> Preferences:
    value = body.get("provider")
    if value is None:
        return NO_PREFERENCES
    if not isinstance(value, dict):
        raise InvalidRequest(f"provider is an object, not {shown(value)}.", param="provider")
    for key in value:
        if key in OPENROUTER_ONLY:
            raise InvalidRequest(
                f"provider.{key} is OpenRouter's alone and cannot be kept here: remove it.", param=f"provider.{key}"
            )
        if key not in PREFERENCES:
            param = f"provider.{key}" if key.isidentifier() and len(key) <= LONGEST else "provider"
            raise InvalidRequest(f"provider has no key {shown(key)}; known are {', '.join(PREFERENCES)}.", param=param)
    return Preferences(
        order=_names(value, "order"),
        only=_names(value, "only"),
        ignore=_names(value, "ignore"),
        allow_fallbacks=_flag(value, "allow_fallbacks", default=True),
        require_parameters=_flag(value, "require_parameters", default=False),
    )


def _names(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = value.get(key)
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidRequest(
            f"provider.{key} is a list of provider names, not {shown(names)}.", param=f"provider.{key}"
        )
    return tuple(names[:MOST_ENTRIES])


def _flag(value: Mapping[str, Any], key: str, *, default: bool) -> bool:
    flag = value.get(key)
    if flag is None:
        return default
    if not isinstance(flag, bool):
        raise InvalidRequest(f"provider.{key} is true or false, not {shown(flag)}.", param=f"provider.{key}")
    return flag


def read_industry(body: Mapping[str, Any]) -> str | None:
    """`metadata.industry`: a fact for rules and the record, never an override of the model."""
    metadata = body.get("metadata")
    industry = metadata.get("industry") if isinstance(metadata, dict) else None
    return industry[:64] if isinstance(industry, str) else None


def estimate_tokens(shape: ir.Shape, wide: int) -> int:
    """Input tokens, roughly: four characters each, dearer in scripts that UTF-8 writes with more bytes.

    `wide` is the number of bytes beyond one per character: an ideograph has two of them and about one token.
    """
    return estimated_tokens(shape.chars, wide, shape.media)


def estimated_tokens(chars: int, wide: int, media: int) -> int:
    return -(-chars // CHARS_PER_TOKEN) + wide * 3 // 10 + media * TOKENS_PER_MEDIUM
