"""The closed word lists of the dialect, and what a Gemini model takes, by its name.

The API answers 400 to what a generation does not know: a thinking level, a penalty, JSON output beside functions. So a
translated request is cut to the generation it goes to.

Sources: ai.google.dev/gemini-api/docs/{thinking, function-calling, structured-output, thought-signatures,
file-input-methods}, ai.google.dev/api/generate-content, and recordings.
"""

from __future__ import annotations

import re

from proxy import ir
from proxy.record import frozen

NAME = "gemini"

STOP_REASONS: dict[str, ir.StopReason] = {
    "STOP": "end",
    "MAX_TOKENS": "length",
    "SAFETY": "filter",
    "RECITATION": "filter",
    "LANGUAGE": "filter",
    "BLOCKLIST": "filter",
    "PROHIBITED_CONTENT": "filter",
    "SPII": "filter",
    "IMAGE_SAFETY": "filter",
    "IMAGE_PROHIBITED_CONTENT": "filter",
    "IMAGE_RECITATION": "filter",
    "MODEL_ARMOR": "filter",
}
# The model lost its way: no answer, and none that a client could do anything about.
BROKEN_OFF = frozenset(
    {
        "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE", "NO_IMAGE", "IMAGE_OTHER", "OTHER",
    }
)  # fmt: skip
_UNSAID = ("", "FINISH_REASON_UNSPECIFIED")

# Tools that the provider runs, by their neutral kind. The others need what only their own provider stores.
SERVER_TOOLS = {"web_search": "googleSearch", "web_fetch": "urlContext", "code_execution": "codeExecution"}

# The first call of a step has to be signed from Gemini 3 on, or the API answers 400. For a call that another model
# made, or whose client lost the signature, it documents this one: ai.google.dev/gemini-api/docs/thought-signatures#faqs
UNSIGNED = "skip_thought_signature_validator"

_LEVELS = ("minimal", "low", "medium", "high")
_VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?(?!\d)")
_NEWEST = (99, 0)


@frozen
class Accepts:
    """The defaults are those of a model that is no Gemini."""

    levels: tuple[str, ...] = ()  # of thinkingLevel, rising
    budgets: tuple[int, int] | None = None  # least and most thinkingBudget, in tokens
    off: bool = False  # thinkingBudget 0 turns thinking off
    penalties: bool = False
    json_beside_tools: bool = False
    mixed_tools: bool = False  # functions beside the provider's own tools
    media_results: bool = False  # pictures and documents inside a functionResponse
    signed_calls: bool = False  # see UNSIGNED
    fetches: bool = False  # files at public https addresses


def accepts(native: str) -> Accepts:
    """What the model of that name takes. Of unknown future generations the newest known is believed."""
    name = native.lower()
    version = _version(name)
    if version >= (3, 0):
        return Accepts(
            levels=_levels(name, version),
            json_beside_tools=True,
            mixed_tools=True,
            media_results=True,
            signed_calls=True,
            fetches=True,
        )
    if version >= (2, 5):
        budgets, off = _budgets(name)
        return Accepts(budgets=budgets, off=off, fetches=True)
    return Accepts(penalties=version == (2, 0))


def stop_reason(native: str, *, called: bool) -> ir.StopReason:
    """The API ends with STOP behind calls, too."""
    stop = STOP_REASONS.get(native, "unknown")
    return "tool_call" if called and stop in ("end", "unknown") else stop


def native_stop(raw: object) -> str:
    """The API's word; "" where it gives none."""
    return raw if isinstance(raw, str) and raw not in _UNSAID else ""


def _version(name: str) -> tuple[int, int]:
    found = _VERSION.search(name)
    if found:
        return int(found[1]), int(found[2] or 0)
    return _NEWEST if re.search(r"gemini-(?:pro|flash|flash-lite)-latest", name) else (0, 0)


def _levels(name: str, version: tuple[int, int]) -> tuple[str, ...]:
    if "image" in name or "tts" in name:
        return ()
    if "flash-lite" in name or ("flash" in name and version < (3, 7)):
        return _LEVELS
    if "flash" in name or ("pro" in name and version >= (3, 1)):
        return _LEVELS[1:]
    return ("low", "high")


def _budgets(name: str) -> tuple[tuple[int, int] | None, bool]:
    if "image" in name or "tts" in name:
        return None, False
    if "flash-lite" in name:
        return (512, 24_576), True
    return ((128, 32_768), False) if "pro" in name else ((1, 24_576), True)
