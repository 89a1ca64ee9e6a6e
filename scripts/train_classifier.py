"""Build the weights of the `auto` classifier from labelled prompts.

    python scripts/train_classifier.py training/prompts more.jsonl --out proxy/data/classifier.weights

A row is a JSON object with `label` (code, reasoning, summarization, extraction, long-context, chat) and the prompt:
`text`, or `turns` (the user's, oldest first), or `messages` ({role, content}). Further fields: `length` (characters of
a text that is given abridged), `lang`, `source` (rows of one origin: no origin outweighs the others), `licence`.
Rows without a licence, or under one that does not allow it (non-commercial, research only, GPL), are left out unless
`--any-licence`.
Needs nothing but the standard library; the same rows in the same order give the same file.
"""

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import exp
from pathlib import Path
from typing import Any

from attrs import frozen

from proxy.routing.classifier import EDGE, LABELS, LONG, LONG_LABELS, SHORT_LABELS, features

SEEDS = (7, 8, 9, 10, 11)  # the mean of several descents errs less than one, and moves less from build to build
EPOCHS = 14
RATE, RATE_END = 0.12, 0.01  # step of the descent at the first and the last row
DECAY = 0.004  # pull towards zero, per visit of a feature
DROPPED = 0.45  # share of a row's features hidden at each visit: no single word may carry a class
RARE = 2  # a feature needs this many rows ...
ORIGINS = 2  # ... of this many origins, or it says more of the origin than of the class
SOURCE_CAP = 30.0  # rows of one origin count like at most this many
LENGTHENED = 8  # every so many-th summary or extraction is also learned as if its text were long
MOST = 14_000  # features kept: those with the widest weights, and the more frequent ones among equals
FREQUENT = 0.25  # power of a feature's number of rows in that order
SCALE = 24.0  # stored units per unit of score: a byte holds -5.3 .. 5.3
# Licences that do not allow it, and texts that a data set's own licence does not cover: newspapers', the BBC's.
WITHHELD = re.compile(r"\bNC\b|non[- ]?commercial|GPL|research|MLSUM|XSum|BBC", re.IGNORECASE)


Table = list[list[float]]  # a weight per class and feature


@frozen
class Example:
    names: tuple[str, ...]
    label: int
    choice: tuple[int, ...]  # the classes open to a text of this length
    source: str
    weight: float = 1.0


def read(paths: Iterable[Path], any_licence: bool = False) -> Iterator[dict[str, Any]]:
    """Rows of the files, and of the *.jsonl in the directories, that may be learned from."""
    for path in paths:
        for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
            for line in file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                row.setdefault("source", file.stem)
                if any_licence or allowed(row):
                    yield row


def allowed(row: dict[str, Any]) -> bool:
    """Whether the trainer takes a row: nobody's word for it is no permission."""
    licence = row.get("licence") or ""
    return licence != "" and not WITHHELD.search(licence)


def turns(row: dict[str, Any]) -> list[str]:
    """The user's turns, oldest first."""
    if "messages" in row:
        return [message["content"] for message in row["messages"] if message["role"] == "user"]
    return row["turns"] if "turns" in row else [row["text"]]


def examples(rows: Iterable[dict[str, Any]]) -> list[Example]:
    made: list[Example] = []
    for row in rows:
        text, label = turns(row)[-1], LABELS.index(row["label"])
        size = row.get("length", len(text))
        made.append(_example(text, size, label, row["source"]))
        lengthened = row["label"] in LONG_LABELS and 2 * EDGE < size < LONG and len(made) % LENGTHENED == 0
        if lengthened:
            made.append(_example(text, 2 * LONG, label, row["source"]))
    return made


def _example(text: str, size: int, label: int, source: str) -> Example:
    choice = LONG_LABELS if size >= LONG else SHORT_LABELS
    names = tuple(sorted({*features(text, size)}))
    return Example(names, label, tuple(n for n, name in enumerate(LABELS) if name in choice), source)


def weigh(made: Sequence[Example]) -> list[float]:
    """What a row counts: origins are capped, then classes are brought half way to equal."""
    rows_of = Counter((one.source, one.label) for one in made)
    capped = [min(1.0, SOURCE_CAP / rows_of[one.source, one.label]) for one in made]
    classes = dict.fromkeys(range(len(LABELS)), 0.0)
    for one, weight in zip(made, capped, strict=True):
        classes[one.label] += weight
    mean = sum(classes.values()) / len(LABELS)
    return [weight * (mean / classes[one.label]) ** 0.5 for one, weight in zip(made, capped, strict=True)]


def vocabulary(made: Sequence[Example]) -> dict[str, int]:
    """The features worth a weight, in the order of their names, and how many rows have each."""
    count: Counter[str] = Counter()
    origins: dict[str, set[str]] = defaultdict(set)
    for one in made:
        count.update(one.names)
        for name in one.names:
            if len(origins[name]) < ORIGINS:
                origins[name].add(one.source)
    return {
        name: rows
        for name, rows in sorted(count.items())
        if rows >= RARE and len(origins[name]) >= ORIGINS and _stores(name)
    }


def _stores(name: str) -> bool:
    return name.isprintable()  # no lone surrogates, no line ends


def descend(made: Sequence[Example], names: Iterable[str], seed: int) -> Table:
    """Logistic regression by stochastic gradient descent: per class a weight for each name."""
    dice = random.Random(seed)
    number = {name: at for at, name in enumerate(names)}
    rows = [
        ([number[name] for name in one.names if name in number], one.label, one.choice, weight)
        for one, weight in zip(made, weigh(made), strict=True)
    ]
    table = [[0.0] * len(number) for _ in LABELS]
    for epoch in range(EPOCHS):
        rate = RATE * (RATE_END / RATE) ** (epoch / (EPOCHS - 1))
        dice.shuffle(rows)
        for found, label, choice, weight in rows:
            _step(table, [at for at in found if dice.random() >= DROPPED], label, choice, rate * weight)
    return table


def _step(table: list[list[float]], found: list[int], label: int, choice: tuple[int, ...], rate: float) -> None:
    scores = {lane: sum(map(table[lane].__getitem__, found)) for lane in choice}
    top = max(scores.values())
    parts = {lane: exp(score - top) for lane, score in scores.items()}
    total = sum(parts.values())
    for lane, part in parts.items():
        slope = part / total - (lane == label)
        if abs(slope) < 0.01:
            continue
        column = table[lane]
        for at in found:
            column[at] -= rate * (slope + DECAY * column[at])


def strongest(table: Table, counts: Sequence[int]) -> list[int]:
    """Which features are kept, in their order."""
    spread = [max(units) - min(units) for units in zip(*table, strict=True)]
    worth = [width * rows**FREQUENT for width, rows in zip(spread, counts, strict=True)]
    return sorted(sorted(range(len(worth)), key=lambda at: (-worth[at], at))[:MOST])


def write(table: Table, names: dict[str, int], rows: int) -> str:
    """A weights file: see `parse` of the classifier."""
    kept, spelled = strongest(table, list(names.values())), list(names)
    units = bytes(max(-128, min(127, round(column[at] * SCALE))) + 128 for at in kept for column in table)
    about = {"format": 1, "labels": LABELS, "scale": SCALE, "rows": rows, "features": len(kept)}
    return "\n".join([json.dumps(about), units.hex(), *(spelled[at] for at in kept)]) + "\n"


def train(
    rows: Iterable[dict[str, Any]], seeds: Sequence[int] = SEEDS, say: Callable[[str], None] = lambda line: None
) -> str:
    """The text of a weights file: the mean of a descent for each seed."""
    made = examples(rows)
    names = vocabulary(made)
    say(f"{len(made)} examples, {len(names)} features")
    tables = [descend(made, names, seed) for seed in seeds]
    mean = [[sum(units) / len(seeds) for units in zip(*lanes, strict=True)] for lanes in zip(*tables, strict=True)]
    return write(mean, names, len(made))


def folds(rows: Sequence[dict[str, Any]], number: int) -> list[set[str]]:
    """Origins parted into `number` sets with about equally many rows: to train on the rows of all sets but one, and
    judge by that one. An origin stays whole: prompts of one maker are alike, and half of them would give the rest away.
    """
    parts: list[tuple[int, set[str]]] = [(0, set()) for _ in range(number)]
    for name, count in sorted(Counter(map(origin, rows)).items(), key=lambda item: (-item[1], item[0])):
        least = min(range(number), key=lambda at: parts[at][0])
        parts[least] = (parts[least][0] + count, parts[least][1] | {name})
    return [names for _, names in parts]


def origin(row: dict[str, Any]) -> str:
    """Who made a row: `a collection: a part of it` are the collection's."""
    return str(row["source"]).partition(": ")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", type=Path, help="JSONL files, or directories of them")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "proxy/data/classifier.weights")
    parser.add_argument("--any-licence", action="store_true", help="learn from every row, whatever its licence says")
    asked = parser.parse_args()
    text = train(read(asked.rows, asked.any_licence), say=print)
    asked.out.write_text(text, encoding="utf-8")
    print(f"{asked.out}: {len(text.encode()) // 1024} KiB")


if __name__ == "__main__":
    main()
