"""How hard a model shall think, in the words of the Claude generation that is asked.

"Think, at this effort" becomes

- `thinking: {"type": "adaptive"}` and `output_config.effort` from 4.6 on, and for models that are no Claude;
- `thinking: {"type": "enabled", "budget_tokens": n}` from 3.7 to 4.5, with n a share of max_tokens, 1,024 at least;
- nothing before 3.7, named in `dropped`.

"Do not think" becomes nothing before 5, where thinking is off unless asked for, then the type `disabled`, or
`between_tools` (Sonnet 5.5). Where thinking is always on it becomes effort "low", named in `dropped`.

An effort that the model does not have becomes the next lower one, "minimal" becomes "low". A forced tool choice and
thinking exclude each other, and before 4.6 so do thinking and a tool loop whose calls no thinking stands in front of:
then the model is not made to think, and `dropped` says so. A client that speaks this dialect is taken at its word.

https://platform.claude.com/docs/en/build-with-claude/effort
"""

from __future__ import annotations

from typing import Any

from proxy import ir
from proxy.dialects.anthropic.claude import Accepts
from proxy.record import frozen

LEAST_BUDGET = 1024  # tokens; the API refuses less
_RISING = ("minimal", "low", "medium", "high", "xhigh", "max")
# OpenRouter's shares of max_tokens, which its users know: openrouter.ai/docs/use-cases/reasoning-tokens
_SHARES = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.95, "max": 0.95}


@frozen
class Thought:
    """`thinking` and `effort` as the body has them, None where it leaves them out; `lost` if the wish was not met."""

    thinking: dict[str, Any] | None = None
    effort: str | None = None
    lost: bool = False


def as_said(reasoning: ir.Reasoning) -> Thought:
    """The wish of a client that speaks this dialect."""
    display = {"display": "summarized"} if reasoning.summary else {}
    match reasoning:
        case ir.Reasoning(enabled=False):
            return Thought({"type": "disabled"}, reasoning.effort)
        case ir.Reasoning(adaptive=True):
            return Thought({"type": "adaptive", **display}, reasoning.effort)
        case ir.Reasoning(budget=int(budget)):
            return Thought({"type": "enabled", "budget_tokens": budget, **display}, reasoning.effort)
        case _:
            return Thought(None, reasoning.effort)


def translated(reasoning: ir.Reasoning, accepts: Accepts, max_tokens: int, *, forced: bool, bare_loop: bool) -> Thought:
    """The wish of another dialect's client. `bare_loop`: the calls being answered have no thinking in front of them."""
    if reasoning.enabled is False or reasoning.effort == "none":
        return _off(accepts)
    if reasoning.effort is None and reasoning.budget is None and not (reasoning.enabled or reasoning.adaptive):
        return Thought(lost=reasoning.summary is not None)
    effort, exact = _nearest(reasoning.effort, accepts.efforts)
    if accepts.budget and (not accepts.adaptive or (reasoning.budget is not None and reasoning.effort is None)):
        if forced or bare_loop:
            return Thought(lost=True)
        return _budgeted(reasoning, max_tokens)
    if not accepts.adaptive:
        return Thought(lost=True)
    lost = not exact or reasoning.budget is not None
    if forced:
        return Thought(None, effort, lost=True)
    display = {"display": "summarized"} if reasoning.summary else {}
    return Thought({"type": "adaptive", **display}, effort, lost)


def _off(accepts: Accepts) -> Thought:
    if accepts.off is None:
        return Thought(None, "low", lost=True)
    return Thought({"type": accepts.off} if accepts.off else None)


def _budgeted(reasoning: ir.Reasoning, max_tokens: int) -> Thought:
    """The budget is part of max_tokens and must leave room for an answer."""
    share = _SHARES.get(reasoning.effort or "medium", 0.5)
    wanted = reasoning.budget if reasoning.budget is not None else int(max_tokens * share)
    budget = min(max(wanted, LEAST_BUDGET), max_tokens - 1)
    if budget < LEAST_BUDGET:
        return Thought(lost=True)
    return Thought({"type": "enabled", "budget_tokens": budget}, lost=reasoning.budget not in (None, budget))


def _nearest(effort: str | None, known: tuple[str, ...]) -> tuple[str | None, bool]:
    """The effort to send, and whether it is the one asked for ("minimal" as "low" counts as such)."""
    if effort is None or not known:
        return None, effort is None
    if effort in known:
        return effort, True
    if effort not in _RISING:
        return None, False
    lower = [word for word in known if _RISING.index(word) <= _RISING.index(effort)]
    return (lower[-1] if lower else known[0]), effort == "minimal"
