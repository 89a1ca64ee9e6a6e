"""An answer as it comes.

A decoder numbers parts densely per choice in order of first appearance; `part` is that number.
"""

from __future__ import annotations

from attrs import field

from proxy.ir.parts import Citation, Part
from proxy.ir.told import Failure, Json, StopReason, Usage
from proxy.record import record


@record
class Start:
    id: str
    model: str
    created: int | None = None
    usage: Usage | None = None
    service_tier: str | None = None
    fingerprint: str | None = None


@record
class PartStart:
    """`shell` is the part with what is known at its start: empty text, a call's id and name, a whole opaque block."""

    part: int
    shell: Part
    choice: int = 0


@record
class TextDelta:
    part: int
    text: str
    choice: int = 0
    logprobs: Json = None


@record
class ThinkingDelta:
    """`summary` is the index of the summary piece it belongs to; None for reasoning itself."""

    part: int
    text: str
    choice: int = 0
    summary: int | None = None


@record
class SignatureDelta:
    """Proof of the thinking part: `signature`, or `encrypted` where Responses sends that."""

    part: int
    signature: str | None = field(default=None, repr=False)
    choice: int = 0
    encrypted: str | None = field(default=None, repr=False)


@record
class ArgumentsDelta:
    part: int
    text: str
    choice: int = 0


@record
class CitationDelta:
    part: int
    citation: Citation
    choice: int = 0


@record
class RefusalDelta:
    part: int
    text: str
    choice: int = 0


@record
class AudioDelta:
    part: int
    data: str = field(default="", repr=False)
    transcript: str = ""
    choice: int = 0


@record
class PartEnd:
    """`final` is the whole part where the dialect sends it at the end (server tools, images)."""

    part: int
    choice: int = 0
    final: Part | None = None


@record
class Finish:
    stop: StopReason
    stop_sequence: str | None = None
    choice: int = 0
    native_stop: str | None = None


@record
class UsageReport:
    usage: Usage


@record
class Ping:
    """Alive, nothing to say."""


@record
class End:
    """The dialect's own terminal event was seen."""


StreamEvent = (
    Start | PartStart | TextDelta | ThinkingDelta | SignatureDelta | ArgumentsDelta | CitationDelta | RefusalDelta
    | AudioDelta | PartEnd | Finish | UsageReport | Ping | Failure | End
)  # fmt: skip
