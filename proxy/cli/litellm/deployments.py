"""One entry of `model_list` in a table's own terms: whose model it is, where it is asked for, what is known of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from attrs import field

from proxy.cli.litellm.config import mapping
from proxy.cli.litellm.report import Report
from proxy.cli.litellm.vendors import AZURE_V1, CHAT, FOREIGN, MODES, OPENAI, OWN, SAME, VENDORS, Vendor, split
from proxy.record import frozen

ENVIRONMENT = "os.environ/"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TEMPLATE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
NO_KEY = frozenset(
    {"none", "null", "na", "n/a", "empty", "dummy", "fake", "fake-key", "not-needed", "no-key", "ollama"}
)
SECRET_HEADERS = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)
PRIVATE_NAMES = ("localhost", "host.docker.internal")
MILLION = 1_000_000
MOST_USD = 1_000_000_000
MOST_WEIGHT = 1_000_000
MOST_SECONDS = 366 * 86_400

READ = frozenset(
    {
        "model", "custom_llm_provider", "api_key", "api_base", "base_url", "organization", "extra_headers", "headers",
        "rpm", "tpm", "max_parallel_requests", "weight", "order", "timeout", "stream_timeout", "input_cost_per_token",
        "output_cost_per_token", "cache_read_input_token_cost", "cache_creation_input_token_cost",
        "cache_creation_input_token_cost_above_1hr",
    }
)  # fmt: skip
DESCRIPTIVE = frozenset({"id", "mode", "base_model", "description", "db_model", "created_at", "updated_at"})
WHY_LEFT = {
    "api_version": "the address says it, or nothing does",
    "max_retries": "retries are the whole table's: [retry]",
    "num_retries": "retries are the whole table's: [retry]",
    "mock_response": "the echo of this process is embedded/echo",
    "tags": "[[rules]] choose by headers, projects and what is in the prompt",
    "region_name": "an address is of one region",
    "max_budget": "budgets are of keys and projects",
    "budget_duration": "budgets are of keys and projects",
    "model_info.access_groups": "[projects] say which models a key may use",
    "model_info.input_cost_per_second": "prices are by token",
}
A_PARAMETER = "requests bring their own parameters; the table sets none"
BY_FAMILY = "a model's family tells what it can, unless `capabilities` is written"


@frozen
class Deployment:
    """`fields` are those of a model's entry."""

    group: str
    vendor: str
    native: str
    dialects: tuple[str, ...]
    base_url: str
    key: str  # as `api_key` has it
    endpoints: tuple[str, ...]
    at_vendor: bool = True  # at the vendor's own address
    local: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    fields: Mapping[str, Any] = field(factory=dict)
    weight: int = 1
    order: int = 0

    @property
    def source(self) -> tuple[str, str, str, tuple[tuple[str, str], ...]]:
        """Deployments that share it are of one provider."""
        return self.vendor, self.base_url, self.key, self.headers


def deployment(entry: Mapping[str, Any], report: Report, keys: dict[str, str]) -> Deployment | None:
    """None for one that cannot be carried; the report says why. `keys` are those that were written out so far, with the
    variable that each is to stand in."""
    group = str(entry.get("model_name") or "")
    given, info = mapping(entry.get("litellm_params")), mapping(entry.get("model_info"))
    model = str(given.get("model") or "")
    if not group or not model:
        report.left(f"an entry of model_list{f' ({group})' if group else ''}", "it names no model")
        return None
    name, native = split(model, given.get("custom_llm_provider"))
    base = _base(name, str(given.get("api_base") or given.get("base_url") or ""))
    vendor, why = _vendor(name, native, base)
    if vendor is None:
        report.left(f"{name}/ models" if name in FOREIGN else f"the model {model}", why, group)
        return None
    if (problem := _wrong(base)) is not None:
        report.left("api_base", problem, group)
        return None
    mode = MODES.get(str(info.get("mode") or _mode(name, native)))
    if mode is None:
        report.left(f"models of the mode {info['mode']}", "no surface here serves it", group)
        return None
    _tell(group, given, info, report)
    key = _key(given.get("api_key"), vendor, base)
    if key is None:
        key = f"${{{_moved(str(given['api_key']), _variable(name, base, vendor), keys)}}}"
        report.changed(f"a key written out in api_key is now {key}", "put it into that variable", group)
    return Deployment(
        group=group,
        vendor=SAME.get(name, name),
        native=native,
        dialects=("openai-chat",) if base and vendor is OPENAI else vendor.dialects,
        base_url=base or vendor.base_url,
        key=key,
        endpoints=(*(vendor.endpoints if not base else CHAT), mode),
        at_vendor=not base,
        local=vendor is OWN or name.startswith("ollama") if _at_home(base or vendor.base_url) else False,
        headers=tuple(_headers(given, group, report).items()),
        fields=_fields(given, info, group, mode, report),
        weight=_weight(given),
        order=_whole(given.get("order")) or 0,
    )


def _vendor(name: str, native: str, base: str) -> tuple[Vendor | None, str]:
    if name.startswith("azure") and base.endswith(AZURE_V1):
        return Vendor(("openai-chat", "openai-responses"), "", "AZURE_API_KEY", OPENAI.endpoints), ""
    vendor = VENDORS.get(name)
    if vendor is None:
        if not name:
            return None, "its name does not tell whose it is; LiteLLM goes by its own list of models"
        return None, FOREIGN.get(name, f"no dialect here is {name}'s, as far as is known")
    if not native:
        return None, "it names no model"
    if not base and not vendor.base_url:
        return None, "it has no api_base: add a provider with its base_url"
    return vendor, ""


def _base(vendor: str, text: str) -> str:
    """`api_base` as `base_url`: of Anthropic's and Gemini's the version goes, of others the path of a call."""
    if text.startswith(ENVIRONMENT):
        return f"${{{text.removeprefix(ENVIRONMENT)}}}"
    base = text.strip().rstrip("/")
    tails = {"anthropic": ("/v1/messages", "/v1"), "gemini": ("/v1beta", "/v1")}
    for tail in tails.get(vendor, ("/chat/completions",)):
        base = base.removesuffix(tail)
    return base


def _wrong(base: str) -> str | None:
    if not base or TEMPLATE.search(base):
        return None
    try:
        parts = urlsplit(base)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or re.search(r"[\s\x00-\x1f\x7f]", base):
        return "it is no address such as https://api.example.com/v1"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "it holds a user, a query or a fragment, which no base_url does"
    return None


def _at_home(base: str) -> bool:
    """Only where the address itself says so: what is local may be given what must not leave."""
    host = urlsplit(base).hostname or "" if not TEMPLATE.search(base) else ""
    try:
        return ip_address(host).is_private
    except ValueError:
        return host in PRIVATE_NAMES or (bool(host) and "." not in host)


def _key(given: Any, vendor: Vendor, base: str) -> str | None:
    """As `api_key` has it; None for one that is written out."""
    text = "" if given is None else str(given).strip()
    if text.startswith(ENVIRONMENT) and VARIABLE.fullmatch(text.removeprefix(ENVIRONMENT)):
        return f"${{{text.removeprefix(ENVIRONMENT)}}}"
    if TEMPLATE.fullmatch(text):
        return text
    if not text:
        return f"${{{vendor.variable}}}" if vendor.variable else "none"
    return "none" if base and text.lower() in NO_KEY else None


def _moved(key: str, variable: str, keys: dict[str, str]) -> str:
    """The variable for a key that is written out: its own, where another key has that name."""
    number, free = 2, variable
    while key not in keys and free in keys.values():
        number, free = number + 1, f"{variable}_{number}"
    return keys.setdefault(key, free)


def _variable(name: str, base: str, vendor: Vendor) -> str:
    if not base and vendor.variable:
        return vendor.variable
    host = urlsplit(base).netloc if not TEMPLATE.search(base) else name
    return re.sub(r"[^A-Z0-9]+", "_", (host or name).upper()).strip("_").lstrip("0123456789_") + "_API_KEY"


def _headers(given: Mapping[str, Any], group: str, report: Report) -> dict[str, str]:
    headers: dict[str, str] = {}
    if given.get("organization"):
        headers["OpenAI-Organization"] = _reference(str(given["organization"]))
    for name, value in {**mapping(given.get("headers")), **mapping(given.get("extra_headers"))}.items():
        text = _reference(str(value))
        if SECRET_HEADERS.search(name) and not TEMPLATE.fullmatch(text):
            report.left(f"the header {name}", "it may hold a key: write it as ${VARIABLE} in `headers`", group)
        elif not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not text.isprintable() or not text.isascii():
            report.left(f"the header {name}", "no header has such a name or such a value", group)
        else:
            headers[name] = text
    return headers


def _reference(text: str) -> str:
    return f"${{{text.removeprefix(ENVIRONMENT)}}}" if text.startswith(ENVIRONMENT) else text


def _mode(vendor: str, native: str) -> str:
    if vendor == "text-completion-openai":
        return "completion"
    for start, mode in (("text-embedding", "embedding"), ("dall-e", "image_generation"), ("whisper", "audio_speech")):
        if native.startswith(start):
            return mode
    return "embedding" if "embed" in native else "chat"


# -- what is known of the model ----------------------------------------------------------------------------------


def _fields(given: Mapping[str, Any], info: Mapping[str, Any], group: str, mode: str, report: Report) -> dict[str, Any]:
    known = {**info, **given}
    fields: dict[str, Any] = {}
    for name, ours in (("max_input_tokens", "context"), ("max_output_tokens", "max_output")):
        if (tokens := _whole(info.get(name))) is not None:
            fields[ours] = tokens
    if price := _price(known, group, mode, report):
        fields["price"] = price
    times = {"answer": given.get("timeout"), "first_event": given.get("stream_timeout")}
    if timeouts := {name: time for name, value in times.items() if (time := duration(value)) is not None}:
        fields["timeouts"] = timeouts
    limits = {"rpm": known.get("rpm"), "tpm": known.get("tpm"), "parallel": given.get("max_parallel_requests")}
    if bounds := {name: count for name, value in limits.items() if (count := _whole(value))}:
        fields["limits"] = bounds
    return fields


def _price(known: Mapping[str, Any], group: str, mode: str, report: Report) -> dict[str, Decimal]:
    """USD per million tokens."""
    price = {
        ours: rate
        for ours, theirs in (
            ("input", "input_cost_per_token"),
            ("output", "output_cost_per_token"),
            ("cache_read", "cache_read_input_token_cost"),
            ("cache_write", "cache_creation_input_token_cost"),
            ("cache_write_1h", "cache_creation_input_token_cost_above_1hr"),
        )
        if (rate := _rate(known.get(theirs))) is not None
    }
    if mode == "embeddings" and "input" in price:
        price.setdefault("output", Decimal(0))  # vectors are no tokens
    if price and not {"input", "output"} <= price.keys():
        report.left("a price for input or for output alone", "a price has both", group)
        return {}
    return price


def _rate(value: Any) -> Decimal | None:
    try:
        rate = Decimal(str(value)) * MILLION if value is not None and not isinstance(value, bool) else None
    except InvalidOperation:
        return None
    return rate if rate is not None and rate.is_finite() and 0 <= rate <= MOST_USD else None


def _weight(given: Mapping[str, Any]) -> int:
    """What simple-shuffle draws by: the weight, else the requests, else the tokens per minute."""
    for name in ("weight", "rpm", "tpm"):
        if (share := _whole(given.get(name))) is not None:
            return min(share, MOST_WEIGHT)
    return 1


def _whole(value: Any) -> int | None:
    try:
        number = None if value is None or isinstance(value, bool) else int(str(value).strip())
    except ValueError:
        return None
    return number if number is not None and 0 <= number < 1 << 60 else None


def duration(seconds: Any) -> str | None:
    """As a table writes it; None for what is no time, or none to speak of."""
    try:
        number = None if seconds is None or isinstance(seconds, bool) else Decimal(str(seconds))
    except InvalidOperation:
        return None
    if number is None or not number.is_finite() or not Decimal("0.001") <= number <= MOST_SECONDS:
        return None
    if number == number.to_integral_value():
        whole = int(number)
        return f"{whole // 60}m" if whole % 60 == 0 else f"{whole}s"
    return f"{int(number * 1000)}ms"


def _tell(group: str, given: Mapping[str, Any], info: Mapping[str, Any], report: Report) -> None:
    for name in given:
        if name not in READ and given[name] not in (None, [], {}):
            report.left(f"litellm_params.{name}", WHY_LEFT.get(name, A_PARAMETER), group)
    taken = {"max_input_tokens", "max_output_tokens", *DESCRIPTIVE, *READ}
    for name in info:
        if name in taken or info[name] in (None, [], {}):
            continue
        why = BY_FAMILY if name.startswith("supports_") else WHY_LEFT.get(f"model_info.{name}", "has no place here")
        report.left("model_info.supports_*" if name.startswith("supports_") else f"model_info.{name}", why, group)
