"""Say how good the shipped classifier is: macro-F1, a confusion matrix per class and per language, and its speed.

    python scripts/classifier_report.py training/prompts more.jsonl --unseen training/probe.jsonl --held-out

Rows are those of scripts/train_classifier.py; all count, whatever their licence. Of those that the trainer was given it
took the ones that it may learn from, and these say nothing about unseen prompts: they are counted apart.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from train_classifier import SEEDS, allowed, folds, origin, read, train, turns

from proxy.routing.classifier import LABELS, Model, classify, parse

TIMED = {500: 1000, 20_000: 1000, 10_000_000: 20}  # characters, and how many texts of that length
REPEATS = 3
FOLDS = 2
OWN = Path(__file__).parents[1] / "training/prompts"

Row = dict[str, Any]
Pair = tuple[str, str]  # true class, predicted class


def predicted(row: Row, model: Model | None = None) -> str:
    """The class that the gateway would act on."""
    messages = row.get("messages", ())
    system = row.get("system", "") or "\n".join(m["content"] for m in messages if m["role"] == "system")
    return classify(turns(row), system, model=model).label


def f1(pairs: Sequence[Pair], label: str) -> float:
    both = sum(true == label == guess for true, guess in pairs)
    either = sum((true == label) + (guess == label) for true, guess in pairs)
    return 2 * both / either if either else 0.0


def macro_f1(pairs: Sequence[Pair]) -> float:
    """The mean over the classes that occur."""
    present = {true for true, _ in pairs}
    return sum(f1(pairs, label) for label in present) / len(present)


def confusion(pairs: Sequence[Pair], all_rows: bool = True) -> str:
    """A matrix with a row for every class, or for those that occur."""
    cells = Counter(pairs)
    present = {true for true, _ in pairs}
    lines = ["true \\ said".ljust(15) + "".join(label[:10].rjust(12) for label in LABELS)]
    for true in [label for label in LABELS if all_rows or label in present]:
        lines.append(true.ljust(15) + "".join(str(cells[true, guess]).rjust(12) for guess in LABELS))
    return "\n".join(lines)


def microseconds(texts: Sequence[str], size: int) -> tuple[float, float]:
    """p50 and p99 of one call, on the rows' own texts cut or repeated to `size` characters."""
    taken: list[float] = []
    for text in filter(None, texts):
        long = [(text * (size // len(text) + 1))[:size]]
        for _ in range(REPEATS):
            start = perf_counter()
            classify(long)
            taken.append((perf_counter() - start) * 1e6)
    taken.sort()
    return taken[len(taken) // 2], taken[len(taken) * 99 // 100]


def in_sample(rows: Sequence[Row], trained: Sequence[bool], pairs: Sequence[Pair]) -> str:
    """One line each for the rows that the weights were made of and for the others."""
    lines = []
    for title, wanted in (("trained on", True), ("not trained on", False)):
        some = [pair for pair, was in zip(pairs, trained, strict=True) if was is wanted]
        if some:
            lines.append(f"{title:15}{len(some):6} rows  {told(some)}")
    return "\n".join([*lines, f"{'all':15}{len(rows):6} rows  {told(pairs)}"])


def told(pairs: Sequence[Pair]) -> str:
    hits = sum(true == guess for true, guess in pairs)
    return f"accuracy {hits / len(pairs):.3f}  macro-F1 {macro_f1(pairs):.3f}"


def by_language(rows: Sequence[Row], pairs: Sequence[Pair]) -> str:
    """A line and a confusion matrix for each language."""
    spoken: dict[str, list[Pair]] = defaultdict(list)
    for row, pair in zip(rows, pairs, strict=True):
        spoken[row.get("lang", "?")].append(pair)
    ordered = sorted(spoken.items(), key=lambda item: -len(item[1]))
    lines = ["language   rows  right  macro-F1  most frequent errors"]
    for language, some in ordered:
        errors = Counter(pair for pair in some if pair[0] != pair[1])
        right = 1 - errors.total() / len(some)
        named = ", ".join(f"{true} as {guess} {count}" for (true, guess), count in errors.most_common(3))
        lines.append(f"{language:8} {len(some):6} {right:6.2f} {macro_f1(some):9.2f}  {named}".rstrip())
    return "\n".join((*lines, *(f"\n{language}\n{confusion(some, all_rows=False)}" for language, some in ordered)))


def held_out(own: Sequence[Row], given: Sequence[Row]) -> str:
    """Weights made anew for each fold, by a single descent: of `own`, and of the `given` rows of other origins that may
    be learned from."""
    lines = ["whole origins held out:"]
    for number, names in enumerate(folds(given, FOLDS), 1):
        kept = [row for row in given if allowed(row) and origin(row) not in names]
        model = parse(train([*own, *kept], SEEDS[:1]))
        judged = [row for row in given if origin(row) in names]
        score = told([(row["label"], predicted(row, model)) for row in judged])
        lines.append(f"fold {number}  trained on {len(own) + len(kept)}, judged by {len(judged)} rows  {score}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=Path, help="JSONL files or directories that the trainer was given")
    parser.add_argument("--unseen", nargs="+", type=Path, default=[], help="others, that it never was")
    parser.add_argument("--held-out", action="store_true", help="train without whole origins of the rows, and judge so")
    parser.add_argument("--own", nargs="+", type=Path, default=[OWN], help="what --held-out always trains on")
    parser.add_argument("--errors", type=int, default=0, help="how many wrong answers to print (default: none)")
    asked = parser.parse_args()
    given, unseen = list(read(asked.rows, any_licence=True)), list(read(asked.unseen, any_licence=True))
    rows = given + unseen
    if not rows:
        parser.error("name rows, or --unseen rows")
    pairs = [(row["label"], predicted(row)) for row in rows]
    print(in_sample(rows, [*map(allowed, given), *(False for _ in unseen)], pairs), "\n")
    print(confusion(pairs), "\n")
    print("\n".join(f"{label:15} F1 {f1(pairs, label):.3f}" for label in LABELS), "\n")
    print(by_language(rows, pairs), "\n")
    for size, number in TIMED.items():
        p50, p99 = microseconds([turns(row)[-1] for row in rows][:number], size)
        print(f"{size:,} characters: p50 {p50:.0f} us, p99 {p99:.0f} us")
    if asked.held_out:
        print("\n" + held_out(list(read(asked.own)), given or unseen))
    wrong = [(row, pair) for row, pair in zip(rows, pairs, strict=True) if pair[0] != pair[1]]
    for row, (true, guess) in wrong[: asked.errors]:
        print(f"{true} taken for {guess}: {json.dumps(turns(row)[-1][:120], ensure_ascii=False)}")


if __name__ == "__main__":
    main()
