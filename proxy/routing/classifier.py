"""The classifier behind the model name `auto`: what kind of work does the last user turn ask for?

A linear model over features with names (words, pairs, stems, meanings from a lexicon of many languages, the shape of
the text), read from two files beside the package. It looks at a bounded slice of the text: a turn of 10 MB costs what
one of some hundred characters costs. What a request needs (vision, tools) is not its matter, nor is the choice of a
model. The weights are built by scripts/train_classifier.py.
"""

import json
import re
from collections.abc import Collection, Sequence
from functools import cache
from itertools import combinations, pairwise
from math import exp
from pathlib import Path

from proxy.record import frozen

LABELS: tuple[str, ...] = ("code", "reasoning", "summarization", "extraction", "long-context", "chat")
LONG = 8_000  # characters: from here on a turn is long context, a summary or an extraction, and nothing else
SAFE = "chat"

EDGE = 100  # characters read as the request, at each end; a turn up to twice that is read whole
BODY = 60  # characters read as the material behind the first edge
MOST_TOKENS = 100  # a turn of Chinese has a token for every character
MOST_SHOWN, LEAST_SHOWN = 8, 0.3  # how many reasons an answer has; their least weight, in units of score

# Below this margin the answer is a guess, and the table's safe class is the better one.
LOW_MARGIN = 0.04
# A short last turn says little by itself, and less where it points back ("now in Rust", "and for five?"): the class of
# its conversation gets a bonus, in units of the model's scores.
EARLIER_BONUS, EARLIER_LONGEST, EARLIER_TURNS, EARLIER_MARGIN = 1.5, 240, 4, 0.15
FOLLOWS_BONUS, FOLLOWS_LONGEST = 8.0, 80
# A system prompt speaks only where the turn itself asks for nothing clear ("extract the fields" + a bare mail).
SYSTEM_MARGIN, SYSTEM_SHARE = 0.3, 0.5

LANE = 24  # bits a class takes in a packed weight: sums of hundreds of features do not reach the next class
ZERO = 128  # weights are stored as unsigned bytes around this
DATA = Path(__file__).parents[1] / "data"

_IDEOGRAMS = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_MARKS = "\x00-/:-@\\[-`{-\xbf\u2000-\u206f\u3000-\u303f\uff00-\uffef"
DIGITS = re.compile(r"\d+")
CAMEL = re.compile(r"[a-z][A-Z][a-z]")
SPEAKER = re.compile(r"^[\w .@-]{1,24}: ", re.MULTILINE)
LATEX = (
    r"\\(?:frac|sqrt|int|sum|lim|cdot|times|left|right|math|begin|text|alpha|beta|theta|lambda|pi|leq?|geq?|infty|log"
    r"|sin|cos|det|ldots)|[_^]\{|\$[^$\n]{1,60}\$"
)
SYMBOLS = "{}();=<>[]_$\\"
SIZES: tuple[int, ...] = (20, 60, 150, 400, 1_000, 3_000, LONG)
MEANINGS_PAIRED = 6


@frozen
class Classified:
    """A class, how sure, and why."""

    label: str  # one of LABELS
    margin: float  # 0..1: distance of the best class to the second
    features: tuple[tuple[str, float], ...]  # those that weighed most for the label, heaviest first
    fallback: bool = False  # the margin was too low: the label is the safe one
    kept: bool = False  # an earlier turn's class was kept


@frozen(eq=False)
class Model:
    """Weights of all classes packed in one integer per feature: scoring is one sum over the features found."""

    packed: dict[str, int]
    scale: float  # stored units per unit of score
    strong: dict[str, dict[str, float]]  # class -> the features that speak for it, in units of score: told as reasons

    def score(self, found: Collection[str]) -> list[float]:
        """One score per class, in the order of LABELS, for features that the model knows."""
        total = sum(map(self.packed.__getitem__, found))
        zero, mask = ZERO * len(found), (1 << LANE) - 1
        return [((total >> LANE * lane & mask) - zero) / self.scale for lane in range(len(LABELS))]

    def heaviest(self, found: Collection[str], label: str) -> tuple[tuple[str, float], ...]:
        """The features that speak most for a class; equal ones in the order of their names."""
        strong = self.strong[label]
        best = sorted([(-strong[name], name) for name in strong.keys() & found])[:MOST_SHOWN]
        return tuple([(name, -weight) for weight, name in best])


def classify(turns: Sequence[str], system: str = "", *, safe: str = SAFE, model: Model | None = None) -> Classified:
    """Classify the last of the user's `turns` (oldest first); the others and the system prompt are its context.
    `model`: other weights than the shipped ones."""
    model = model or load()
    text = turns[-1] if turns else ""
    seen = features(text)
    found = model.packed.keys() & seen
    scores = model.score(found)
    choice = _open_to(len(text))
    shares = _softmax(scores, choice)
    if system and _margin(shares) < SYSTEM_MARGIN:
        hints = model.score(model.packed.keys() & features(system[:EDGE]))
        scores = [own + SYSTEM_SHARE * hint for own, hint in zip(scores, hints, strict=True)]
        shares = _softmax(scores, choice)
    own = max(shares, key=shares.__getitem__)
    earlier = _earlier(model, turns) if len(turns) > 1 and len(text) <= EARLIER_LONGEST else None
    if earlier is not None and earlier != own:
        scores[LABELS.index(earlier)] += FOLLOWS_BONUS if _follows(text, seen) else EARLIER_BONUS
        shares = _softmax(scores, choice | {earlier})
    best = max(shares, key=shares.__getitem__)
    margin = _margin(shares)
    if margin < LOW_MARGIN and choice is LONG_LABELS:
        best = "long-context"  # it asks for nothing else clearly, and the safe class might not hold so long a text
    fallback = margin < LOW_MARGIN and choice is SHORT_LABELS
    label = safe if fallback else best
    return Classified(label, margin, model.heaviest(found, label), fallback, not fallback and best == earlier)


def _earlier(model: Model, turns: Sequence[str]) -> str | None:
    """The class of the latest earlier turn that stands by itself."""
    for text in reversed(turns[-1 - EARLIER_TURNS : -1]):
        seen = features(text)
        shares = _softmax(model.score(model.packed.keys() & seen), _open_to(len(text)))
        best = max(shares, key=shares.__getitem__)
        if _margin(shares) >= EARLIER_MARGIN and not (best == SAFE and _follows(text, seen)):
            return best
    return None


def _follows(text: str, seen: list[str]) -> bool:
    """Whether a turn is short and points back."""
    return len(text) <= FOLLOWS_LONGEST and "ask:follow" in seen


def _open_to(size: int) -> frozenset[str]:
    return LONG_LABELS if size >= LONG else SHORT_LABELS


def _softmax(scores: Sequence[float], choice: Collection[str]) -> dict[str, float]:
    chosen = {label: score for label, score in zip(LABELS, scores, strict=True) if label in choice}
    top = max(chosen.values())
    weights = {label: exp(score - top) for label, score in chosen.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def _margin(shares: dict[str, float]) -> float:
    first, second = sorted(shares.values(), reverse=True)[:2]
    return first - second


SHORT_LABELS = frozenset(LABELS) - {"long-context"}
LONG_LABELS = frozenset({"long-context", "summarization", "extraction"})


# -- features -------------------------------------------------------------------------------------------------------


def features(text: str, size: int | None = None) -> list[str]:
    """The names of all that is seen in a text, unknown ones too, some of them twice.

    `size` stands in for the length of a text that is given abridged. Plain names are words, pairs (`how many`) and
    stems (`summa*`) of the request, `first:` and `last:` its opening and closing words, `~` words of the material,
    `ask:` meanings, `shape:` and `size:` the form.
    """
    length = len(text)
    whole = length <= 2 * EDGE
    head = text if whole else text[:EDGE]
    body, tail = ("", "") if whole else (text[EDGE : min(EDGE + BODY, length - EDGE)], text[-EDGE:])
    tokens = _tokens(head)
    closing = tokens if whole else _tokens(tail)
    found = _words(tokens)
    meanings = _meanings(found)
    if not whole:
        after = _words(closing)
        meanings_after = _meanings(after)
        found += after
        found += ["~" + token for token in _tokens(body)]
        found += ["first:" + name for name in meanings]
        found += ["last:" + name for name in meanings_after]
        meanings |= meanings_after
    bucket = f"size:{sum(map((length if size is None else size).__ge__, SIZES))}"
    found += ["first:" + token for token in tokens[:3]]
    found += ["last:" + token for token in closing[-3:]]
    found += meanings
    found += [f"{name} & {bucket}" for name in meanings]
    found += map(" & ".join, combinations(sorted(meanings)[:MEANINGS_PAIRED], 2))
    found += _shape(head, body, tail, tokens)
    found += ("first:" + " ".join(tokens[:2]), bucket, "bias")
    return found


@cache
def _token() -> re.Pattern[str]:
    """A word, a run of marks such as `):`, or an ideogram. The word is said by exclusion: vowel signs of Hindi are no
    letters. It takes 3 ms to compile, which only who classifies has to."""
    return re.compile(rf"[^\s{_MARKS}{_IDEOGRAMS}]+|[^\s\w{_IDEOGRAMS}]+|_+|[{_IDEOGRAMS}]")


def _tokens(piece: str) -> list[str]:
    tokens: list[str] = _token().findall(DIGITS.sub("0", piece.lower()))
    if len(tokens) > MOST_TOKENS:
        return tokens[: MOST_TOKENS // 2] + tokens[-MOST_TOKENS // 2 :]
    return tokens


def _words(tokens: list[str]) -> list[str]:
    """Words, pairs, stems; triples of ideograms, whose words are two or three characters long."""
    found = [*tokens, *map(" ".join, pairwise(tokens)), *[token[:5] + "*" for token in tokens if len(token) > 5]]
    if tokens and max(tokens) >= "\u0e00":
        found += [token[:2] + "*" for token in tokens if len(token) > 2 and "\uac00" <= token <= "\ud7af"]
        triples = zip(tokens, tokens[1:], tokens[2:], strict=False)
        found += [" ".join(triple) for triple in triples if "\u0e00" <= triple[1] < "\uac00"]
    return found


def _meanings(found: list[str]) -> set[str]:
    lexicon = meanings()
    return {name for key in lexicon.keys() & found for name in lexicon[key]}


def _shape(head: str, body: str, tail: str, tokens: list[str]) -> list[str]:
    sample = f"{head}{body}{tail}"
    lines = sample.count("\n")
    symbols = 100 * sum(map(sample.count, SYMBOLS)) // (len(sample) + 1)
    numbers = tokens.count("0")
    shape = [
        f"shape:lines {lines.bit_length()}",
        f"shape:symbols {symbols.bit_length()}",
        f"shape:numbers {numbers.bit_length()}",
    ]
    if "```" in sample:
        shape.append("shape:fence")
    if re.search(LATEX, sample):
        shape.append("shape:latex")  # its marks are those of code, and it is none
    if "?" in sample[-4:]:
        shape.append("shape:ends with ?")
    if CAMEL.search(sample):
        shape.append("shape:camelCase")
    if lines > 1 and len(SPEAKER.findall(sample)) > 1:
        shape.append("shape:speakers")
    if tail:
        opening, closing = head.find("\n"), len(tail) - tail.rfind("\n")
        if opening > 0:
            shape.append("shape:request, then text")
        if closing < EDGE:
            shape.append("shape:text, then request")
    return shape


# -- data -----------------------------------------------------------------------------------------------------------


@cache
def load() -> Model:
    """The shipped weights."""
    return parse((DATA / "classifier.weights").read_text(encoding="utf-8"))


def parse(text: str) -> Model:
    """A weights file: a line of JSON, a line of hex (a byte per feature and class), then the features' names."""
    head, weights, *names = text.split("\n")[:-1]
    flat, wide, step = bytes.fromhex(weights), LANE // 8, len(LABELS) * LANE // 8
    spread = bytearray(step * len(names))
    for lane in range(len(LABELS)):
        spread[lane * wide :: step] = flat[lane :: len(LABELS)]
    packed = [int.from_bytes(spread[at : at + step], "little") for at in range(0, len(spread), step)]
    scale = json.loads(head)["scale"]
    strong = {label: _strong(names, flat[lane :: len(LABELS)], scale) for lane, label in enumerate(LABELS)}
    return Model(dict(zip(names, packed, strict=True)), scale, strong)


def _strong(names: list[str], units: bytes, scale: float) -> dict[str, float]:
    """The features above LEAST_SHOWN; a regex finds them among all bytes sooner than a loop does."""
    least = ZERO + int(LEAST_SHOWN * scale) + 1
    above = re.compile(b"[\\x%02x-\\xff]" % least)
    return {names[at]: (units[at] - ZERO) / scale for at in map(re.Match.start, above.finditer(units))}


@cache
def meanings() -> dict[str, tuple[str, ...]]:
    """The lexicon: which words, stems (`summa*`) and pairs of many languages mean the same, as feature names."""
    known: dict[str, tuple[str, ...]] = {}
    for line in (DATA / "classifier.lexicon").read_text(encoding="utf-8").splitlines():
        name, _, entries = line.partition(":")
        for entry in entries.split(",") if entries else ():
            for key in _keys(entry.strip()):
                known[key] = (*known.get(key, ()), f"ask:{name}")
    return known


def _keys(entry: str) -> tuple[str, ...]:
    """An entry as it appears among a text's features: `summa*` is that stem and the bare word."""
    if entry.endswith("*"):
        return entry, entry[:-1]
    return (" ".join(_token().findall(entry)),)
