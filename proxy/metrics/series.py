"""Numbers and histograms by their labels, and their text.

One thread, the event loop's, calls all methods, so a number needs no lock: prometheus-client's own counters and
histograms take four times as long, and its text seven times.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from attrs import field

from proxy.metrics.specs import Spec
from proxy.record import define

NONE = "none"  # nobody answered
OTHER = "other"

SERIES = 2_000  # of one metric; past it new ones lose their model and provider
LIMITS = {"model": 500, "provider": 100}  # values of one label
LIMIT = 100  # of any other label


@define
class Number:
    """A counter's or a gauge's value in one series."""

    value: float = 0

    def inc(self, by: float = 1) -> None:
        self.value += by


@define
class Histogram:
    """One series of a histogram; `counts` has one place more than `bounds`, for what is above them all."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    sum: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


@define
class Label:
    """The values of one label: at most `limit`, and of these only `known` ones; None is any word of our own code.

    A value takes its place when it is first used and keeps it, as its series does, when the table forgets it.
    """

    name: str
    limit: int
    overflow: Callable[[str], None]
    known: frozenset[str] | None = None
    taken: set[str] = field(factory=set)

    def __call__(self, value: str | None) -> str:
        if value is None or value == NONE:
            return NONE
        if value in self.taken:
            return value
        if value == OTHER or (self.known is not None and value not in self.known):
            return OTHER
        if len(self.taken) >= self.limit:
            self.overflow(self.name)
            return OTHER
        self.taken.add(value)
        return value


Child = TypeVar("Child", Number, Histogram)


@define
class Family(Generic[Child]):
    """A metric by its label values: `requests("chat", "gpt-4o", ...).inc()`. At most `SERIES` of them have a model."""

    labels: tuple[Label, ...]
    new: Callable[[], Child]
    overflow: Callable[[str], None]
    children: dict[tuple[str, ...], Child] = field(factory=dict)

    def __call__(self, *values: str) -> Child:
        child = self.children.get(values)
        return self.bind(values) if child is None else child

    def bind(self, values: tuple[str | None, ...]) -> Child:
        named = tuple(label(value) for label, value in zip(self.labels, values, strict=True))
        if len(self.children) >= SERIES and named not in self.children:
            self.overflow("series")
            named = tuple(
                OTHER if label.name in LIMITS else value for label, value in zip(self.labels, named, strict=True)
            )
        if named not in self.children:
            self.children[named] = self.new()
        return self.children[named]


# -- the text format ---------------------------------------------------------------------------------------------
# https://prometheus.io/docs/instrumenting/exposition_formats/

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def text_of(
    spec: Spec, children: Mapping[tuple[str, ...], Number] | Mapping[tuple[str, ...], Histogram]
) -> Iterator[str]:
    yield f"# HELP {spec.name} {spec.help}\n# TYPE {spec.name} {spec.kind}\n"
    for values, child in children.items():
        labels = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(spec.labels, values, strict=True)]
        if isinstance(child, Histogram):
            yield from _histogram_text(spec.name, labels, child)
        else:
            yield f"{spec.name}{_braced(labels)} {child.value / spec.divisor}\n"


def _histogram_text(name: str, labels: list[str], child: Histogram) -> Iterator[str]:
    if not any(child.counts):
        return
    count, head = 0, f"{name}_bucket{{{''.join(f'{label},' for label in labels)}le="
    for bound, here in zip((*child.bounds, "+Inf"), child.counts, strict=True):
        count += here
        yield f'{head}"{bound}"}} {count}\n'
    yield f"{name}_sum{_braced(labels)} {child.sum}\n{name}_count{_braced(labels)} {count}\n"


def _braced(labels: list[str]) -> str:
    return f"{{{','.join(labels)}}}" if labels else ""
