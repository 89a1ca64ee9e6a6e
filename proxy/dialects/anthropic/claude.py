"""What a Claude model takes, by its name.

The API refuses with 400 what a generation does not know (an effort, a thinking budget) or no longer knows (a sampling
parameter), so a translated request is cut to the generation it goes to. The client's own Messages requests never are.

Sources: platform.claude.com/docs/en/build-with-claude/{effort, thinking, adaptive-thinking, structured-outputs,
mid-conversation-system-messages} and the migration guides of each model.
"""

from __future__ import annotations

import re

from proxy.record import record

_EFFORTS = ("low", "medium", "high", "xhigh", "max")  # of output_config.effort, rising
_FAMILIES = ("opus", "sonnet", "haiku", "fable", "mythos")
_ALWAYS_THINK = ("fable", "mythos")
# claude-opus-4-8, claude-3-5-sonnet-20241022, claude-sonnet-4-20250514, anthropic.claude-haiku-4-5-20251001-v1:0
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")


@record
class Accepts:
    """The defaults are those of a model behind a compatible endpoint that is no Claude: the newest API, taken whole."""

    efforts: tuple[str, ...] = _EFFORTS
    adaptive: bool = True  # thinking {"type": "adaptive"}
    budget: bool = True  # thinking {"type": "enabled", "budget_tokens": n}
    off: str | None = "disabled"  # the thinking type that turns it off; "" by saying nothing, None not at all
    sampling: bool = True  # temperature, top_p, top_k
    both_samplers: bool = True  # temperature and top_p in one request
    system_turns: bool = False  # role "system" within messages
    structured: bool = True  # output_config.format, strict tools


def accepts(native: str) -> Accepts:
    """What the model of that name takes. Of unknown future generations the newest known is believed."""
    name = native.lower()
    found = _VERSION.search(name)
    if not found:
        return Accepts()
    version = (int(found[1]), int(found[2] or 0))
    family = next((word for word in _FAMILIES if word in name), "")
    return Accepts(
        efforts=_efforts(family, version),
        adaptive=version >= (4, 6),
        budget=(3, 7) <= version < (4, 7),
        off=_off(family, version),
        sampling=version < (4, 7),
        both_samplers=version < (4, 1),
        system_turns=_system_turns(family, version),
        structured=version >= (4, 5) or (family == "opus" and version == (4, 1)),
    )


def _efforts(family: str, version: tuple[int, int]) -> tuple[str, ...]:
    if version >= (4, 7):
        return _EFFORTS
    if version == (4, 6):
        return ("low", "medium", "high", "max") if family == "opus" else ("low", "medium", "high")
    return ()


def _off(family: str, version: tuple[int, int]) -> str | None:
    if family in _ALWAYS_THINK or (family == "opus" and version >= (5, 5)):
        return None
    if family == "sonnet" and version >= (5, 5):
        return "between_tools"
    return "disabled" if version >= (5, 0) else ""


def _system_turns(family: str, version: tuple[int, int]) -> bool:
    """claude-sonnet-5 takes such a turn and ignores it, which is worse than refusing it."""
    since = {"opus": (4, 8), "fable": (5, 0), "mythos": (5, 0)}.get(family, (5, 5))
    return version >= since
