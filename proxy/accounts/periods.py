"""The periods of a budget, in UTC: each begins at a midnight, belongs to it, and ends where the next begins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

Period = Literal["none", "daily", "weekly", "monthly"]
PERIODS: tuple[Period, ...] = get_args(Period)
DAY_MS = 86_400_000
NEVER = 1 << 62  # the end of a period that has none


def period_of(period: Period, now_ms: int) -> tuple[int, int]:
    """First day and first day after it, as days since 1970. Weeks begin on Monday, months on their first."""
    day = now_ms // DAY_MS
    match period:
        case "none":
            return 0, NEVER // DAY_MS
        case "daily":
            return day, day + 1
        case "weekly":
            monday = day - (day + 3) % 7  # 1970 began on a Thursday
            return monday, monday + 7
        case "monthly":
            today = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)
            first = today.replace(day=1)
            following = (first + timedelta(days=32)).replace(day=1)
            return _day(first), _day(following)


def _day(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)).days
