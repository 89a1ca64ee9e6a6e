"""`router_settings`, `litellm_settings` and `general_settings`: what of them a table can say.

Where both of the first two say something, the router's word counts, as in LiteLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from attrs import field

from proxy.accounts.asking import MOST_USD
from proxy.cli.litellm.config import listed, mapping
from proxy.cli.litellm.deployments import duration
from proxy.cli.litellm.report import Report
from proxy.record import frozen

PROJECT = "litellm"  # holds the budget that LiteLLM has for the whole proxy
PERIODS = {"1d": "daily", "24h": "daily", "7d": "weekly", "1w": "weekly", "30d": "monthly", "31d": "monthly"}
MONTHS = ("1mo", "1month")
LONGEST_REST = 300  # seconds: the default of [health] longest
FEWEST_ATTEMPTS = 5  # the default of [retry] attempts
STRATEGIES = ("simple-shuffle", "latency-based-routing", "cost-based-routing")

CARRIED = frozenset(
    {
        "fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks", "model_group_alias",
        "num_retries", "request_timeout", "timeout", "stream_timeout", "allowed_fails", "cooldown_time",
        "routing_strategy", "max_budget", "budget_duration", "max_parallel_requests", "global_max_parallel_requests",
    }
)  # fmt: skip
QUIET = frozenset(
    {"telemetry", "set_verbose", "log_level", "debug", "json_logs", "enable_pre_call_checks", "detailed_debug"}
)
BUILT_IN = "metrics, the log and the ledger are built in"
OWN_KEYS = "callers' keys are made here: pointsman keys create"
ONE_FILE = "state is one SQLite file, and limits are the process's own"
WHY_LEFT = {
    **dict.fromkeys(("callbacks", "success_callback", "failure_callback", "service_callback"), BUILT_IN),
    **dict.fromkeys(("alerting", "alerting_args", "alert_types"), "[server] budget_webhook, and alerts on metrics"),
    **dict.fromkeys(("master_key", "allow_user_auth", "custom_auth", "key_generation_settings"), OWN_KEYS),
    **dict.fromkeys(("default_key_generate_params", "upperbound_key_generate_params"), f"{OWN_KEYS} --budget --rpm"),
    **dict.fromkeys(
        (
            "default_internal_user_params",
            "max_internal_user_budget",
            "internal_user_budget_duration",
            "default_team_settings",
        ),
        OWN_KEYS,
    ),
    **dict.fromkeys(
        ("database_url", "store_model_in_db", "redis_host", "redis_port", "redis_password", "redis_url"), ONE_FILE
    ),
    **dict.fromkeys(("cache", "cache_params"), "answers are not cached; a provider's prompt cache is kept warm"),
    **dict.fromkeys(
        ("drop_params", "modify_params"),
        "what a provider cannot be told is refused, or named in a header: docs/dialects.md",
    ),
    "retry_policy": "what is tried again follows from the error: docs/errors.md",
    "allowed_fails_policy": "what makes a candidate rest follows from the error: docs/errors.md",
    "retry_after": "waits follow from the error and from Retry-After",
    "default_model": "a project's `profile` is used where a request names no model",
    "provider_budget_config": "budgets are of keys and projects",
    "routing_strategy_args": "see [health] and [routing]",
}
SECTIONS = ("router_settings", "litellm_settings", "general_settings")
ELSEWHERE = {
    "environment_variables": "variables are set where the service is started, such as systemd's EnvironmentFile",
    "guardrails": "contents are not judged",
    "mcp_servers": "tools are the client's",
    "files_settings": "files are not served",
    "finetune_settings": "fine-tuning is not served",
    "vector_store_registry": "vector stores are not served",
}


@frozen
class Settings:
    """`chains` are the fallbacks that were written for a group, `default` those of all others."""

    sections: dict[str, dict[str, Any]] = field(factory=dict)
    strategy: str = "simple-shuffle"
    chains: dict[str, list[str]] = field(factory=dict)
    default: list[str] = field(factory=list)
    aliases: dict[str, str] = field(factory=dict)

    def chain(self, group: str) -> list[str]:
        return [name for name in self.chains.get(group, self.default) if name != group]


def settings(config: Mapping[str, Any], report: Report) -> Settings:
    general, modules, router = (mapping(config.get(name)) for name in reversed(SECTIONS))
    said = {**general, **modules, **router}
    _tell(config, report)
    strategy = str(said.get("routing_strategy") or "simple-shuffle")
    if strategy not in STRATEGIES:
        report.changed(
            f"routing_strategy {strategy}", "deployments are drawn by weight: nothing here counts their load"
        )
    default = _names(said.get("default_fallbacks"), report)
    chains = _chains(said, report)
    return Settings(
        sections=_sections(said, report),
        strategy=strategy,
        chains=chains,
        default=list(dict.fromkeys((*default, *chains.pop("*", [])))),
        aliases=_aliases(said.get("model_group_alias"), report),
    )


def _sections(said: Mapping[str, Any], report: Report) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {}
    most = _count(said.get("global_max_parallel_requests") or said.get("max_parallel_requests"))
    if most:
        sections["server"] = {"concurrency": most}
    times = {"first_event": said.get("stream_timeout"), "answer": said.get("timeout") or said.get("request_timeout")}
    if timeouts := {name: time for name, value in times.items() if (time := duration(value)) is not None}:
        sections["timeouts"] = timeouts
    if (retries := _count(said.get("num_retries"))) is not None:
        sections["retry"] = {"tries": retries + 1, "attempts": max(FEWEST_ATTEMPTS, retries + 1)}
    health: dict[str, Any] = {}
    if (fails := _count(said.get("allowed_fails"))) is not None:
        health["failures"] = fails + 1
    if (rest := duration(said.get("cooldown_time"))) is not None:
        health["rest"] = rest
        if Decimal(str(said["cooldown_time"])) > LONGEST_REST:
            health["longest"] = rest
    if health:
        sections["health"] = health
    if (budget := _budget(said, report)) is not None:
        sections["projects"] = {PROJECT: {"budget": budget}}
    return sections


def _budget(said: Mapping[str, Any], report: Report) -> dict[str, Any] | None:
    try:
        limit = Decimal(str(said.get("max_budget") or 0))
    except InvalidOperation:
        limit = Decimal(0)
    if not limit.is_finite() or limit <= 0:
        return None
    if limit > MOST_USD:
        report.left("max_budget", f"more than {MOST_USD:,} USD is as good as none")
        return None
    span = str(said.get("budget_duration") or "")
    period = "none" if not span else "monthly" if span in MONTHS else PERIODS.get(span)
    if period is None:
        report.left(f"max_budget for {span}", "periods are daily, weekly and monthly")
        return None
    report.changed(
        "max_budget", f"it binds the keys of one project: pointsman keys create --name NAME --project {PROJECT}"
    )
    if period != "none":
        report.changed(f"max_budget for {span}", f"the period is {period}, by the calendar, in UTC")
    return {"limit": limit, "period": period}


def _count(value: Any) -> int | None:
    try:
        number = None if value is None or isinstance(value, bool) else int(str(value))
    except ValueError:
        return None
    return number if number is not None and 0 <= number <= 1_000_000 else None


# -- names that stand for others ---------------------------------------------------------------------------------


def _chains(said: Mapping[str, Any], report: Report) -> dict[str, list[str]]:
    chains: dict[str, list[str]] = {}
    for kind in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
        for entry in listed(said.get(kind)):
            for group, targets in entry.items():
                names = _names(targets, report)
                added = [name for name in names if name not in chains.get(str(group), [])]
                if kind != "fallbacks" and added:
                    report.changed(kind, ONE_CHAIN[kind], str(group))
                chains.setdefault(str(group), []).extend(added)
    return chains


ONE_CHAIN = {
    "context_window_fallbacks": "they are part of the one chain, tried after other failures as well; a model whose "
    "window is too small is passed over at once",
    "content_policy_fallbacks": "they are part of the one chain, tried after other failures; a content filter ends a "
    'request, unless a profile has content_policy = "next"',
}


def _names(value: Any, report: Report) -> list[str]:
    """Fallbacks may be names, or a name with parameters of its own."""
    names = []
    for entry in value if isinstance(value, list) else [value] if isinstance(value, str) else []:
        if isinstance(entry, dict):
            if entry.keys() != {"model"}:
                report.left(
                    "parameters of a fallback", "a fallback is asked with the request's own", str(entry.get("model"))
                )
            entry = entry.get("model")
        if entry:
            names.append(str(entry))
    return names


def _aliases(value: Any, report: Report) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for name, target in mapping(value).items():
        if isinstance(target, dict):
            if target.get("hidden"):
                report.changed("hidden aliases", "they are listed in /v1/models", name)
            target = target.get("model")
        if isinstance(target, str) and target != name:
            aliases[name] = target
        else:
            report.left(f"the alias {name}", "it stands for no one name")
    return aliases


# -- what has no place -------------------------------------------------------------------------------------------


def _tell(config: Mapping[str, Any], report: Report) -> None:
    for section in SECTIONS:
        for name, value in mapping(config.get(section)).items():
            if name not in CARRIED | QUIET and value not in (None, False, [], {}, ""):
                report.left(f"{section}.{name}", WHY_LEFT.get(name, "has no place here"))
    for name, value in config.items():
        if name not in ("model_list", *SECTIONS) and value:
            report.left(name, ELSEWHERE.get(name, "has no place here"))
