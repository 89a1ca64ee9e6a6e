from __future__ import annotations

from typing import Any

import pytest
from each import each

from proxy.accounts.asking import Spend, Wanted, key_json, read_grace, read_wanted
from proxy.accounts.budget import BudgetTerms
from proxy.accounts.keys import Key
from proxy.accounts.limits import LimitTerms
from proxy.errors import InvalidRequest

NOW = 1_764_000_000_000  # 2025-11-24T16:00:00Z
PROJECTS = ("team-a", "team-b")

READ: dict[str, tuple[dict[str, Any], Wanted]] = {
    "a name is enough": ({"name": " ci "}, Wanted("ci")),
    "nulls say nothing": ({"name": "ci", **dict.fromkeys(("project", "scopes", "budget", "limits"))}, Wanted("ci")),
    "a project": ({"name": "ci", "project": "team-a"}, Wanted("ci", project="team-a")),
    "scopes": (
        {"name": "ops", "scopes": ["admin:read", "inference"]},
        Wanted("ops", scopes=frozenset({"admin:read", "inference"})),
    ),
    "an end": ({"name": "ci", "expires_at": "2025-11-24T16:00:01Z"}, Wanted("ci", expires_ms=NOW + 1000)),
    "an end without a zone is UTC": (
        {"name": "ci", "expires_at": "2025-11-24 16:00:01"},
        Wanted("ci", expires_ms=NOW + 1000),
    ),
    "a budget": (
        {"name": "ci", "budget": {"limit": 0.1, "period": "daily", "alert": 0.85, "unpriced": "allow"}},
        Wanted("ci", budget=BudgetTerms(limit_nanos=100_000_000, period="daily", alert=850, unpriced="allow")),
    ),
    "a budget in a string is exact": (
        {"name": "ci", "budget": {"limit": "20.000000001"}},
        Wanted("ci", budget=BudgetTerms(limit_nanos=20_000_000_001)),
    ),
    "limits": ({"name": "ci", "limits": {"rpm": 3, "tpm": None}}, Wanted("ci", limits=LimitTerms(rpm=3))),
}  # fmt: skip


@each(("document", "wanted"), READ.values(), ids=READ)
def test_a_key_is_asked_for(document: dict[str, Any], wanted: Wanted) -> None:
    assert read_wanted(document, PROJECTS, NOW) == wanted


REFUSED: dict[str, tuple[Any, str | None]] = {
    "no object": ([], None),
    "no name": ({}, "name"),
    "an empty name": ({"name": "  "}, "name"),
    "a name of several lines": ({"name": "a\nb"}, "name"),
    "a name with half a surrogate pair": ({"name": "a\ud800"}, "name"),
    "a name past all sense": ({"name": "x" * 129}, "name"),
    "an unknown member": ({"name": "ci", "owner": "me"}, "owner"),
    "an unknown project": ({"name": "ci", "project": "team-c"}, "project"),
    "a project of a wrong type": ({"name": "ci", "project": 1}, "project"),
    "an unknown scope": ({"name": "ci", "scopes": ["root"]}, "scopes"),
    "no scope": ({"name": "ci", "scopes": []}, "scopes"),
    "scopes in a string": ({"name": "ci", "scopes": "inference"}, "scopes"),
    "chat beside another": ({"name": "ci", "scopes": ["chat", "admin:read"]}, "scopes"),
    "an end that is past": ({"name": "ci", "expires_at": "2025-11-24T16:00:00Z"}, "expires_at"),
    "an end that is no time": ({"name": "ci", "expires_at": "soon"}, "expires_at"),
    "an end beyond the calendar": ({"name": "ci", "expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
    "an end in its last instant": ({"name": "ci", "expires_at": "9999-12-31T23:59:59.999999Z"}, "expires_at"),
    "an end in a number": ({"name": "ci", "expires_at": 5}, "expires_at"),
    "a budget without a limit": ({"name": "ci", "budget": {}}, "budget.limit"),
    "a budget below nothing": ({"name": "ci", "budget": {"limit": -1}}, "budget.limit"),
    "a budget of true": ({"name": "ci", "budget": {"limit": True}}, "budget.limit"),
    "a budget that is no number": ({"name": "ci", "budget": {"limit": "nan"}}, "budget.limit"),
    "a budget too small to count": ({"name": "ci", "budget": {"limit": "0.0000000001"}}, "budget.limit"),
    "a period unknown": ({"name": "ci", "budget": {"limit": 1, "period": "hourly"}}, "budget.period"),
    "an alert above all": ({"name": "ci", "budget": {"limit": 1, "alert": 80}}, "budget.alert"),
    "unpriced neither way": ({"name": "ci", "budget": {"limit": 1, "unpriced": "yes"}}, "budget.unpriced"),
    "a limit of nothing": ({"name": "ci", "limits": {"rpm": 0}}, "limits.rpm"),
    "a limit of half": ({"name": "ci", "limits": {"tpm": 0.5}}, "limits.tpm"),
    "a limit of true": ({"name": "ci", "limits": {"parallel": True}}, "limits.parallel"),
    "a limit unknown": ({"name": "ci", "limits": {"rps": 1}}, "limits.rps"),
}


@each(("document", "param"), REFUSED.values(), ids=REFUSED)
def test_what_no_key_can_have_is_refused_by_name(document: Any, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_wanted(document, PROJECTS, NOW)
    assert refused.value.param == param


def test_grace_is_a_day_unless_it_is_said() -> None:
    assert read_grace({}) == 86_400
    assert read_grace({"grace_seconds": 0}) == 0
    for wrong in (-1, 1.5, "1h", True):
        with pytest.raises(InvalidRequest):
            read_grace({"grace_seconds": wrong})


def test_a_key_is_shown_without_what_opens_it() -> None:
    key = Key(
        "a" * 12, "ci", "neu", b"digest", "wxyz", NOW, project="team-a", expires_ms=NOW + 1, former=b"former",
        former_until_ms=NOW + 5, budget=BudgetTerms(limit_nanos=20_000_000_000, alert=800), limits=LimitTerms(rpm=3),
    )  # fmt: skip
    shown = key_json(key, NOW, Spend(30_000_000_000, 3))
    assert shown == {
        "id": "a" * 12, "object": "key", "name": "ci", "prefix": "neu_live_aaaaaaaaaaaa", "last_four": "wxyz",
        "project": "team-a", "scopes": ["inference"], "created_at": "2025-11-24T16:00:00.000Z", "last_used_at": None,
        "expires_at": "2025-11-24T16:00:00.001Z", "revoked": False, "revoked_at": None,
        "former_until": "2025-11-24T16:00:00.005Z", "spent_usd": "30",
        "budget": {
            "limit_usd": "20", "spent_usd": "0.000000003", "period": "none", "alert": 0.8, "unpriced": "refuse",
        },
        "limits": {"rpm": 3},
    }  # fmt: skip
