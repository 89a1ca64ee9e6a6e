"""How hard a model shall think, in the words of the Gemini generation that is asked.

- from Gemini 3 on `thinkingLevel`: an effort that the model does not have becomes the next lower one, a budget the
  level that this many tokens stand for; thinking cannot be turned off, the lowest level comes nearest;
- Gemini 2.5 `thinkingBudget` in tokens, -1 for "as much as it needs", 0 for none, which the Pro models do not take;
- before 2.5, and for models that are no Gemini, nothing.

Both in one request are refused. https://ai.google.dev/gemini-api/docs/thinking
"""

from __future__ import annotations

from typing import Any

from proxy import ir
from proxy.dialects.gemini.vocabulary import Accepts

# The budgets that Google's own OpenAI-compatible endpoint takes for an effort: ai.google.dev/gemini-api/docs/openai
_BUDGETS = {"minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 32_768, "max": 32_768}
_RISING = ("minimal", "low", "medium", "high", "xhigh", "max")


def thinking_config(wish: ir.Reasoning, accepts: Accepts, *, shown: bool) -> tuple[dict[str, Any], bool]:
    """The members of `thinkingConfig`, and whether the wish was met in full. `shown`: thoughts are to be seen."""
    off = wish.enabled is False or wish.effort == "none"
    if accepts.levels:
        config, met = _level(wish, accepts.levels, off=off)
    elif accepts.budgets is not None:
        config, met = _budget(wish, accepts.budgets, off=off, can_stop=accepts.off)
    else:
        return {}, off
    if shown and not off:
        config["includeThoughts"] = True
    return config, met


def _level(wish: ir.Reasoning, levels: tuple[str, ...], *, off: bool) -> tuple[dict[str, Any], bool]:
    if off:
        return {"thinkingLevel": levels[0]}, False
    effort = wish.effort
    if effort is None and wish.budget is not None:
        effort = next((word for word in _RISING if wish.budget <= _BUDGETS[word]), "max")
    if effort is None:
        return {}, True  # its own measure
    if effort not in _RISING:
        return {}, False
    lower = [level for level in levels if _RISING.index(level) <= _RISING.index(effort)]
    level = lower[-1] if lower else levels[0]
    return {"thinkingLevel": level}, wish.budget is None and (level == effort or effort == "minimal")


def _budget(wish: ir.Reasoning, budgets: tuple[int, int], *, off: bool, can_stop: bool) -> tuple[dict[str, Any], bool]:
    least, most = budgets
    if off:
        return {"thinkingBudget": 0 if can_stop else least}, can_stop
    if wish.budget is not None:
        budget = min(max(wish.budget, least), most)
        return {"thinkingBudget": budget}, budget == wish.budget
    if wish.effort is None:
        return {"thinkingBudget": -1} if wish.adaptive or wish.enabled else {}, True
    if wish.effort not in _BUDGETS:
        return {}, False
    return {"thinkingBudget": min(max(_BUDGETS[wish.effort], least), most)}, True
