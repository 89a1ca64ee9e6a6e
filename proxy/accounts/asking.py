"""What a key is asked for with, and how one is shown: the JSON of `/admin/keys` and of `pointsman keys --json`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from attrs import asdict

from proxy.accounts.budget import NANOS, BudgetTerms, usd
from proxy.accounts.keys import ALL_SURFACES, CHAT, SCOPES, Key
from proxy.accounts.limits import NO_LIMITS, LimitTerms
from proxy.accounts.periods import PERIODS
from proxy.errors import InvalidRequest
from proxy.record import frozen

LONGEST_NAME = 128
MOST_USD = 1_000_000_000
MOST_COUNT = 1_000_000_000
LAST_MS = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * 1000  # of the calendar, but for a day
LONGEST_GRACE = 366 * 86_400  # seconds
DEFAULT_GRACE = 86_400
UNPRICED = ("refuse", "allow")


@frozen
class Wanted:
    """A key to be made."""

    name: str
    project: str | None = None
    scopes: frozenset[str] = ALL_SURFACES
    expires_ms: int | None = None
    budget: BudgetTerms | None = None
    limits: LimitTerms = NO_LIMITS


def read_wanted(document: Any, projects: Collection[str], now_ms: int) -> Wanted:
    """Raises InvalidRequest with the member at fault."""
    given = _members(document, "", ("name", "project", "scopes", "expires_at", "budget", "limits"))
    name = given.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise _wrong("name", f"a name of 1 to {LONGEST_NAME} printable characters is needed")
    project = given.get("project")
    if project is not None and project not in projects:
        known = f"known are {', '.join(sorted(projects))}" if projects else "the table has none"
        raise _wrong("project", f"no project has that name; {known}")
    return Wanted(
        name.strip(),
        project,
        _scopes(given.get("scopes")),
        _time(given.get("expires_at"), now_ms),
        _budget(given.get("budget")),
        _limits(given.get("limits")),
    )


def read_grace(document: Any) -> int:
    """Seconds for which the former secret of a rotated key opens as well. Raises InvalidRequest."""
    given = _members(document, "", ("grace_seconds",))
    grace = given.get("grace_seconds")
    if grace is None:
        return DEFAULT_GRACE
    if type(grace) is not int or not 0 <= grace <= LONGEST_GRACE:
        raise _wrong("grace_seconds", f"a whole number from 0 to {LONGEST_GRACE} is needed")
    return grace


def _wrong(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {why}." if param else f"{why[0].upper()}{why[1:]}.", param=param or None)


def _members(document: Any, path: str, known: Collection[str]) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise _wrong(path, "a JSON object is needed")
    if unknown := sorted(document.keys() - set(known)):
        raise _wrong(f"{path}.{unknown[0]}".strip(".")[:60], f"unknown; known are {', '.join(known)}")
    return document


def _scopes(value: Any) -> frozenset[str]:
    if value is None:
        return ALL_SURFACES
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one in SCOPES for one in value):
        raise _wrong("scopes", f"a list of {', '.join(SCOPES)} is needed")
    if CHAT in value and len(set(value)) > 1:
        raise _wrong("scopes", "chat makes a publishable key, and stands alone")
    return frozenset(value)


def _time(value: Any, now_ms: int) -> int | None:
    if value is None:
        return None
    try:
        when = datetime.fromisoformat(value)
        moment = round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError) as exc:
        raise _wrong("expires_at", "a time such as 2027-01-31T00:00:00Z is needed") from exc
    if not now_ms < moment < LAST_MS:
        raise _wrong("expires_at", "the time is past" if moment <= now_ms else "a time before 9999-12-31 is needed")
    return moment


def _budget(value: Any) -> BudgetTerms | None:
    if value is None:
        return None
    given = _members(value, "budget", ("limit", "period", "alert", "unpriced"))
    limit = _number(given.get("limit"), "budget.limit", MOST_USD)
    if 0 < limit * NANOS < 1:
        raise _wrong("budget.limit", "it is less than can be counted: nine decimals are the most")
    alert = None if given.get("alert") is None else _number(given["alert"], "budget.alert", 1)
    period, unpriced = given.get("period", "none"), given.get("unpriced", "refuse")
    if period not in PERIODS:
        raise _wrong("budget.period", f"one of {', '.join(PERIODS)} is needed")
    if unpriced not in UNPRICED:
        raise _wrong("budget.unpriced", f"one of {', '.join(UNPRICED)} is needed")
    return budget_terms(limit, period, alert, unpriced)


def budget_terms(limit: Decimal, period: Any, alert: Decimal | float | None, unpriced: Any) -> BudgetTerms:
    """From USD, and a fraction of them."""
    return BudgetTerms(
        limit_nanos=int(limit * NANOS),
        period=period,
        alert=None if alert is None else round(alert * 1000),
        unpriced=unpriced,
    )


def _number(value: Any, param: str, most: int) -> Decimal:
    try:
        number = Decimal(str(value)) if isinstance(value, int | float | str) else Decimal("nan")
    except InvalidOperation:
        number = Decimal("nan")
    if isinstance(value, bool) or not number.is_finite() or not 0 <= number <= most:
        raise _wrong(param, f"a number from 0 to {most} is needed")
    return number


def _limits(value: Any) -> LimitTerms:
    if value is None:
        return NO_LIMITS
    given = _members(value, "limits", ("rpm", "tpm", "parallel"))
    for name, count in given.items():
        if count is not None and (type(count) is not int or not 1 <= count <= MOST_COUNT):
            raise _wrong(f"limits.{name}", f"a whole number from 1 to {MOST_COUNT} is needed")
    return LimitTerms(**given)


# -- shown -------------------------------------------------------------------------------------------------------


@frozen
class Spend:
    """Nano-USD: all, and those of the budget's period."""

    total: int = 0
    period: int = 0


def key_json(key: Key, now_ms: int, spend: Spend) -> dict[str, Any]:
    """All of a key but what opens it."""
    return {
        "id": key.id,
        "object": "key",
        "name": key.name,
        "prefix": key.shown,
        "last_four": key.last_four,
        "project": key.project,
        "scopes": sorted(key.scopes),
        "created_at": moment(key.created_ms),
        "last_used_at": moment(key.last_used_ms),
        "expires_at": moment(key.expires_ms),
        "revoked": key.revoked_ms is not None,
        "revoked_at": moment(key.revoked_ms),
        "former_until": moment(key.former_until_ms) if key.former_until_ms > now_ms else None,
        "spent_usd": usd(spend.total),
        "budget": None if key.budget is None else budget_json(key.budget, spend.period),
        "limits": {name: value for name, value in asdict(key.limits).items() if value is not None},
    }


def budget_json(terms: BudgetTerms, spent_nanos: int) -> dict[str, Any]:
    return {
        "limit_usd": usd(terms.limit_nanos),
        "spent_usd": usd(spent_nanos),
        "period": terms.period,
        "alert": None if terms.alert is None else terms.alert / 1000,
        "unpriced": terms.unpriced,
    }


def moment(ms: int | None) -> str | None:
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
