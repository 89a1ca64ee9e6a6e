"""Say how good the shipped classifier is: macro-F1, a confusion matrix per class and per language, and its speed.

    python scripts/classifier_report.py training/probe.jsonl more.jsonl --errors 20

Rows are those of scripts/train_classifier.py; all count, whatever their licence. Rows that the weights were trained on
say nothing about unseen prompts.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from train_classifier import read, turns

from proxy.routing.classifier import LABELS, classify

TIMED = (500, 20_000)  # characters
REPEATS = 3

Pair = tuple[str, str]  # true class, predicted class


def predicted(row: dict[str, Any]) -> str:
    """The class that the gateway would act on."""
    messages = row.get("messages", ())
    system = row.get("system", "") or "\n".join(m["content"] for m in messages if m["role"] == "system")
    return classify(turns(row), system).label


def f1(pairs: Sequence[Pair], label: str) -> float:
    both = sum(true == label == guess for true, guess in pairs)
    either = sum((true == label) + (guess == label) for true, guess in pairs)
    return 2 * both / either if either else 0.0


def macro_f1(pairs: Sequence[Pair]) -> float:
    """The mean over the classes that occur."""
    present = {true for true, _ in pairs}
    return sum(f1(pairs, label) for label in present) / len(present)


def confusion(pairs: Iterable[Pair]) -> str:
    cells = Counter(pairs)
    lines = ["true \\ said".ljust(15) + "".join(label[:10].rjust(12) for label in LABELS)]
    for true in LABELS:
        lines.append(true.ljust(15) + "".join(str(cells[true, guess]).rjust(12) for guess in LABELS))
    return "\n".join(lines)


def microseconds(texts: Sequence[str], size: int) -> tuple[float, float]:
    """p50 and p99 of one call, on the rows' own texts cut or repeated to `size` characters."""
    cut = [(text * (size // len(text) + 1))[:size] for text in texts if text]
    taken: list[float] = []
    for text in cut * REPEATS:
        start = perf_counter()
        classify([text])
        taken.append((perf_counter() - start) * 1e6)
    taken.sort()
    return taken[len(taken) // 2], taken[len(taken) * 99 // 100]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", type=Path, help="JSONL files, or directories of them")
    parser.add_argument("--errors", type=int, default=0, help="how many wrong answers to print (default: none)")
    asked = parser.parse_args()
    rows = list(read(asked.rows, any_licence=True))
    pairs = [(row["label"], predicted(row)) for row in rows]
    hits = sum(true == guess for true, guess in pairs)
    print(f"{len(rows)} rows, accuracy {hits / len(rows):.3f}, macro-F1 {macro_f1(pairs):.3f}\n")
    print(confusion(pairs), "\n")
    for label in LABELS:
        print(f"{label:15} F1 {f1(pairs, label):.3f}")
    by_language: dict[str, list[Pair]] = defaultdict(list)
    for row, pair in zip(rows, pairs, strict=True):
        by_language[row.get("lang", "?")].append(pair)
    print("\nlanguage   rows  right  macro-F1  most frequent errors")
    for language, some in sorted(by_language.items(), key=lambda item: -len(item[1])):
        errors = Counter(pair for pair in some if pair[0] != pair[1])
        right = 1 - errors.total() / len(some)
        told = ", ".join(f"{true} as {guess} {count}" for (true, guess), count in errors.most_common(3))
        print(f"{language:8} {len(some):6} {right:6.2f} {macro_f1(some):9.2f}  {told}")
    for size in TIMED:
        p50, p99 = microseconds([turns(row)[-1] for row in rows][:1000], size)
        print(f"\n{size:,} characters: p50 {p50:.0f} us, p99 {p99:.0f} us", end="")
    print()
    wrong = [(row, pair) for row, pair in zip(rows, pairs, strict=True) if pair[0] != pair[1]]
    for row, (true, guess) in wrong[: asked.errors]:
        print(f"{true} taken for {guess}: {json.dumps(turns(row)[-1][:120], ensure_ascii=False)}")


if __name__ == "__main__":
    main()
