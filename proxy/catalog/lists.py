"""Providers' own lists of models: where each kind stands, and how it is read. Pure: what is fetched is an argument.

    OpenAI      GET  /models            https://platform.openai.com/docs/api-reference/models, and all who add to it:
                                        vLLM, SGLang, llama.cpp, LM Studio, OpenRouter, Together, Groq, Mistral
    Anthropic   GET  /v1/models         https://platform.claude.com/docs/en/api/models/list
    Ollama      GET  /api/tags          https://docs.ollama.com/api/tags
                POST /api/show          what an older server's /api/tags does not say of a model

An entry that cannot be read is left out, and a field that cannot be read is unknown: one odd model must not hide the
others. What is no list at all raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from attrs import evolve, field

from proxy.catalog.families import UNKNOWN, family
from proxy.catalog.price import Price
from proxy.record import frozen

MOST = 2_000  # models of one list
LONGEST = 192  # characters of a name: with its provider's before it, it still fits into a request
DEAREST = Decimal("0.01")  # USD per token: a list that says more does not mean per token


@frozen
class Listed:
    """One model of a provider's list. None is what the list does not say."""

    native: str
    also: tuple[str, ...] = ()  # other names that the provider takes for it
    kin: str = ""  # the name that tells its family, where its own does not
    context: int | None = None  # tokens
    max_output: int | None = None  # tokens
    capabilities: frozenset[str] | None = None
    price: Price | None = None
    chat: bool | None = None  # whether it holds conversations at all
    version: str = field(default="", repr=False)  # changes when the model behind the name does


Entry = Mapping[str, Any]


@frozen
class Source:
    """A kind of list. `path` stands behind the base URL."""

    name: str
    path: str
    read: Callable[[Any], list[Listed]]


def sources(dialect: str, name: str, base_url: str, *, local: bool) -> tuple[Source, ...]:
    """Where to ask, the likeliest first. Ollama speaks OpenAI's dialect too, but its own list says more."""
    if dialect == "anthropic":
        return (ANTHROPIC,)
    if dialect == "ollama" or "ollama" in name.lower() or re.search(r":11434(/|$)", base_url):
        return OLLAMA, OPENAI
    return (OPENAI, OLLAMA) if local else (OPENAI,)


# -- OpenAI's shape ----------------------------------------------------------------------------------------------


def read_openai(document: Any) -> list[Listed]:
    """`{"data": [...]}`, or the bare array that Together sends."""
    entries = document.get("data") if isinstance(document, dict) else document
    return list(_read(entries, "id", _openai_entry))


def _openai_entry(native: str, entry: Entry) -> Listed | None:
    if entry.get("active") is False:  # Groq
        return None
    meta, top = _object(entry, "meta"), _object(entry, "top_provider")
    root = _name(entry.get("root"))  # vLLM: the model behind a served name or an adapter
    kin = native if root is None or family(root) is UNKNOWN else root
    flags = {**_flags(entry), **_modalities(_object(entry, "architecture")), **_parameters(entry)}
    return Listed(
        native,
        also=tuple(filter(None, map(_name, _array(entry, "aliases")))),  # Mistral
        kin=kin,
        # What is loaded counts before what the model was trained for.
        context=_first(
            _tokens(entry.get("max_model_len")),  # vLLM, SGLang
            _tokens(entry.get("loaded_context_length")),  # LM Studio
            _tokens(meta.get("n_ctx")),  # llama.cpp
            _tokens(entry.get("context_length")),  # OpenRouter, Together
            _tokens(entry.get("context_window")),  # Groq
            _tokens(entry.get("max_context_length")),  # Mistral, LM Studio
            _tokens(meta.get("n_ctx_train")),
        ),
        max_output=_first(_tokens(top.get("max_completion_tokens")), _tokens(entry.get("max_completion_tokens"))),
        capabilities=_merged(flags, kin),
        price=_price(_object(entry, "pricing")),
        chat=_is_chat(entry, flags),
    )


# What lists call a capability, as members of `capabilities` or as `supports_` members of the entry itself.
WORDS = {
    "tools": "tools", "tool_use": "tools", "function_calling": "tools", "trained_for_tool_use": "tools",
    "parallel_tool_calls": "parallel_tools",
    "vision": "vision", "image_input": "vision", "multimodal": "vision",
    "audio": "audio", "pdf_input": "files",
    "structured_outputs": "json",
    "thinking": "thinking", "reasoning": "thinking",
    "completion": "chat", "completion_chat": "chat", "chat": "chat",
}  # fmt: skip


def _flags(entry: Entry) -> dict[str, bool]:
    """What the entry says outright. A name in an array is a yes; a name that is not there says nothing."""
    said: dict[str, bool] = {}
    stated = entry.get("capabilities")
    if isinstance(stated, list):
        said |= {WORDS[word]: True for word in stated if isinstance(word, str) and word in WORDS}
    pairs = dict(stated) if isinstance(stated, dict) else {}
    pairs |= {key.removeprefix("supports_"): value for key, value in entry.items() if key.startswith("supports_")}
    for word, value in pairs.items():
        answer = value.get("supported", True) if isinstance(value, dict) else value
        if word in WORDS and isinstance(answer, bool):
            said[WORDS[word]] = answer
    if entry.get("type") == "vlm":  # LM Studio
        said["vision"] = True
    return said


def _modalities(architecture: Entry) -> dict[str, bool]:
    """OpenRouter's, and those of llama.cpp's router."""
    taken, given = (architecture.get(f"{way}_modalities") for way in ("input", "output"))
    said: dict[str, bool] = {}
    if isinstance(taken, list):
        said |= {"vision": "image" in taken, "audio": "audio" in taken, "files": "file" in taken}
    if isinstance(given, list):
        said |= {"images": "image" in given, "chat": "text" in given}
    return said


def _parameters(entry: Entry) -> dict[str, bool]:
    listed = entry.get("supported_parameters")
    if not isinstance(listed, list):
        return {}
    return {
        "tools": "tools" in listed,
        "json": "structured_outputs" in listed or "response_format" in listed,
        "thinking": "reasoning" in listed or "include_reasoning" in listed,
    }


NO_CHAT_TYPE = r"(?i)embed|rerank|image|video|audio|speech|transcri|moderat|classif"


def _is_chat(entry: Entry, flags: Mapping[str, bool]) -> bool | None:
    kind = entry.get("type")  # Together, LM Studio
    return False if isinstance(kind, str) and re.search(NO_CHAT_TYPE, kind) else flags.get("chat")


def _merged(flags: Mapping[str, bool], kin: str) -> frozenset[str] | None:
    """What the list says, and of what it is silent on, what the family is known for."""
    said = {name: value for name, value in flags.items() if name != "chat"}
    known = family(kin)
    if not said or (known is UNKNOWN and all(said.values())):
        return None  # nothing is denied, so nothing may be excluded
    # Servers hold any model to a schema by grammar, so only a list that says otherwise is believed.
    prior = known.capabilities if known is not UNKNOWN else frozenset({"json"})
    found = {name for name in prior if said.get(name, True)} | {name for name, value in said.items() if value}
    return frozenset(found if "tools" in found else found - {"parallel_tools"})


def _price(pricing: Entry) -> Price | None:
    """OpenRouter writes USD per token as strings, Together USD per million as numbers, under other names."""
    if "prompt" in pricing or "completion" in pricing:
        rates = {
            "input": _usd(pricing.get("prompt")),
            "output": _usd(pricing.get("completion")),
            "cache_read": _usd(pricing.get("input_cache_read")),
            "cache_write_5m": _usd(pricing.get("input_cache_write")),
        }
        per_million = {name: rate * 1_000_000 for name, rate in rates.items() if rate is not None and rate <= DEAREST}
    else:
        rates = {"input": _usd(pricing.get("input")), "output": _usd(pricing.get("output"))}
        per_million = {name: rate for name, rate in rates.items() if rate is not None and rate <= DEAREST * 1_000_000}
    return Price.per_million(per_million) if {"input", "output"} <= per_million.keys() else None


def _usd(value: Any) -> Decimal | None:
    """None for what is no price; OpenRouter writes -1 where it depends."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        return None
    return usd if usd.is_finite() and usd >= 0 else None


# -- Anthropic's shape -------------------------------------------------------------------------------------------


def read_anthropic(document: Any) -> list[Listed]:
    entries = document.get("data") if isinstance(document, dict) else None
    return list(_read(entries, "id", _anthropic_entry))


def _anthropic_entry(native: str, entry: Entry) -> Listed | None:
    if entry.get("lifecycle") == "retired":
        return None
    return Listed(
        native,
        kin=native,
        context=_tokens(entry.get("max_input_tokens")),
        max_output=_tokens(entry.get("max_tokens")),
        capabilities=_merged(_flags(entry), native),
    )


# -- Ollama's ----------------------------------------------------------------------------------------------------

LATEST = ":latest"
EMBEDDERS = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "xlm-roberta", "t5encoder"})
# types/model/capability.go of github.com/ollama/ollama: a closed list, so a word that is not there is a no.
OLLAMA_WORDS = {"tools": "tools", "vision": "vision", "thinking": "thinking", "audio": "audio", "image": "images"}
NUM_CTX = r"(?m)^num_ctx\s+(\d{1,9})\s*$"


def read_ollama(document: Any) -> list[Listed]:
    """llama.cpp answers this path as well, and in OpenAI's shape, which says more: that is not taken for Ollama."""
    if not isinstance(document, dict) or "data" in document:
        raise ValueError("not Ollama's list")
    listed = list(_read(document.get("models"), "name", _ollama_entry))
    short = _untagged(model.native for model in listed)
    return [evolve(model, also=short.get(model.native, ())) for model in listed]


def _ollama_entry(native: str, entry: Entry) -> Listed:
    details = _object(entry, "details")
    kin = _ollama_kin(native, details)
    digest = entry.get("digest")
    architectures = [details.get("family"), *_array(details, "families")]
    embeds = any(isinstance(one, str) and one in EMBEDDERS for one in architectures)
    return Listed(
        native,
        kin=kin,
        context=_tokens(details.get("context_length")),
        capabilities=_ollama_capabilities(entry, kin),
        chat=_ollama_chats(entry, False if embeds else None),
        version=digest if isinstance(digest, str) else "",
    )


def read_show(document: Any, listed: Listed) -> Listed:
    """`listed` with what /api/show says of it. `num_ctx` is a window that its maker set, and what will be used."""
    if not isinstance(document, dict):
        raise ValueError("not Ollama's description of a model")
    info, parameters = _object(document, "model_info"), document.get("parameters")
    trained = (_tokens(value) for key, value in info.items() if key.endswith(".context_length"))
    asked = re.search(NUM_CTX, parameters) if isinstance(parameters, str) else None
    return evolve(
        listed,
        context=_first(_tokens(int(asked[1])) if asked else None, *trained, listed.context),
        capabilities=_ollama_capabilities(document, listed.kin) or listed.capabilities,
        chat=_ollama_chats(document, listed.chat),
    )


def _ollama_capabilities(entry: Entry, kin: str) -> frozenset[str] | None:
    """None where the server is too old to say. Any model that talks is held to a schema, by grammar."""
    stated = _array(entry, "capabilities")
    said = {name: word in stated for word, name in OLLAMA_WORDS.items()}
    return _merged(said | {"json": "completion" in stated}, kin) if stated else None


def _ollama_chats(entry: Entry, otherwise: bool | None) -> bool | None:
    stated = _array(entry, "capabilities")
    return "completion" in stated if stated else otherwise


def _ollama_kin(native: str, details: Entry) -> str:
    """The name with its size, or the architecture's where the name is of somebody's own making."""
    size, architecture = details.get("parameter_size"), details.get("family")
    suffix = f":{size.lower()}" if isinstance(size, str) else ""
    if family(native) is UNKNOWN and isinstance(architecture, str) and family(architecture) is not UNKNOWN:
        return architecture + suffix
    return native + suffix


def _untagged(natives: Iterable[str]) -> dict[str, tuple[str]]:
    """By native name the one without a tag that means it: that of `:latest`, else the smallest of that name, since
    whoever pulled `llama3.1:8b` and asks for `llama3.1` has no other in mind."""
    best: dict[str, str] = {}
    for native in sorted(natives, key=lambda name: (not name.endswith(LATEST), family(name).size or 0.0, name)):
        best.setdefault(native.rsplit(":", 1)[0], native)
    return {native: (short,) for short, native in best.items() if short != native}


# -- what they share ---------------------------------------------------------------------------------------------


def _read(entries: Any, key: str, read: Callable[[str, Entry], Listed | None]) -> Iterator[Listed]:
    if not isinstance(entries, list):
        raise ValueError("not a list of models")
    seen = set()
    for entry in entries[:MOST]:
        native = _name(entry.get(key)) if isinstance(entry, dict) else None
        if native is not None and native not in seen and (found := read(native, entry)) is not None:
            seen.add(native)
            yield found


def _name(value: Any) -> str | None:
    """A name that may stand in a request, a header and a log line."""
    usable = isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable() and value == value.strip()
    return value if usable else None


def _tokens(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= 1 << 40 else None


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _object(entry: Entry, key: str) -> Entry:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def _array(entry: Entry, key: str) -> list[Any]:
    value = entry.get(key)
    return value if isinstance(value, list) else []


OPENAI = Source("openai", "/models", read_openai)
ANTHROPIC = Source("anthropic", "/v1/models?limit=1000", read_anthropic)
OLLAMA = Source("ollama", "/api/tags", read_ollama)
SHOW = "/api/show"
