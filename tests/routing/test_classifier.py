"""The classifier behind `auto`: its promises first, then how well it guesses."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsIndex

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing import classifier
from proxy.routing.classifier import BODY, DATA, EDGE, LABELS, LONG, Classified, Model, classify, features

PROJECT = Path(__file__).parents[2]
TASKS = PROJECT.parent / "shared" / "prompts" / "tasks.jsonl"
ARTICLE = "The council met on Monday and talked about the harbour, the school and the new road. " * 120

texts = st.text(st.characters(exclude_categories=()), max_size=700)  # lone surrogates and NULs too


def test_the_classes_are_the_contract() -> None:
    assert LABELS == ("code", "reasoning", "summarization", "extraction", "long-context", "chat")


@given(st.lists(texts, max_size=4), texts)
def test_any_text_gets_a_class_and_reasons(turns: list[str], system: str) -> None:
    answer = classify(turns, system)
    assert answer.label in LABELS
    assert 0.0 <= answer.margin <= 1.0
    weights = [weight for _, weight in answer.features]
    assert len(weights) <= 8
    assert weights == sorted(weights, reverse=True)
    assert all(weight > 0 for weight in weights)


@given(st.lists(texts, max_size=3), texts)
def test_the_same_conversation_gets_the_same_answer(turns: list[str], system: str) -> None:
    assert classify(turns, system) == classify(tuple(turns), system)


@each("turns", [[], [""], [" \n\t "], ["\x00"], ["\ud800\udfff"], ["?" * 5_000], ["", ""]])
def test_odd_input_is_no_error(turns: list[str]) -> None:
    assert classify(turns).label in LABELS


class Watched(str):
    """A text that may be sliced and measured, and nothing else, with a note of what was cut out of it."""

    cuts: list[int]

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        piece = str.__getitem__(self, key)
        self.cuts.append(len(piece))
        return piece

    def _forbidden(self, *args: object, **kwargs: object) -> Any:
        raise AssertionError("the whole text was read")

    lower = strip = count = find = split = splitlines = encode = __iter__ = __contains__ = __hash__ = _forbidden


@pytest.mark.parametrize("size", [2 * EDGE + 1, 20_000, 10_000_000])
def test_a_long_text_is_read_in_slices_of_bounded_length(size: int) -> None:
    text = Watched(("lorem ipsum " * (size // 12 + 1))[:size])
    text.cuts = []
    assert classify([text]).label in LABELS
    assert sum(text.cuts) <= 2 * EDGE + BODY


def test_what_lies_between_the_slices_changes_nothing() -> None:
    edges = "Explain the treaty. " * 40
    assert classify([edges + "x" * 50_000 + edges]) == classify([edges + "def f(): return 1\n" * 3_000 + edges])


LONG_TURNS = {
    "a question on a long text": (f"{ARTICLE}\n\nWho spoke against the road, and why?", "long-context"),
    "a question before it": (f"Who spoke against the road?\n\n{ARTICLE}", "long-context"),
    "code of that length": ("def f(x):\n    return x + 1\n\n" * 400 + "\nwhere is the bug?", "long-context"),
    "nothing but text": (ARTICLE, "long-context"),
    "asks for a summary": (f"Summarize the following text in three sentences.\n\n{ARTICLE}", "summarization"),
    "asks for one at the end": (f"{ARTICLE}\n\nGive me a short summary of the text above.", "summarization"),
    "asks for one in Spanish": (f"Resume este texto en dos frases:\n\n{ARTICLE}", "summarization"),
    "asks for an extraction": (f"Extract all names and dates as JSON.\n\n{ARTICLE}", "extraction"),
    "asks for one at the end too": (f"{ARTICLE}\n\nExtract all names and dates from the text as JSON.", "extraction"),
}


@each(("text", "label"), LONG_TURNS.values(), ids=LONG_TURNS)
def test_a_long_turn_is_long_context_unless_it_asks_for_a_summary_or_an_extraction(text: str, label: str) -> None:
    assert len(text) >= LONG
    assert classify([text]).label == label


@given(st.text(max_size=50).map(lambda text: (text + ARTICLE)[: LONG - 1]))
def test_a_shorter_turn_is_never_long_context(text: str) -> None:
    assert classify([text]).label != "long-context"


CODE, MATHS = (
    "Write a python function that parses an ISO date",
    "Solve 3x + 7 = 22 for x and show that it is the only root",
)
CONVERSATIONS: dict[str, tuple[list[str], str]] = {
    "a follow-up keeps code": ([CODE, "now in Rust please"], "code"),
    "so does thanks": ([CODE, "thanks, and with two digits?"], "code"),
    "a follow-up keeps reasoning": ([MATHS, "and if it were 25?"], "reasoning"),
    "a long conversation too": ([CODE, "make it shorter", "ok", "and what about None?"], "code"),
    "a summary is a change": ([CODE, f"Summarize this article in two sentences:\n\n{ARTICLE[:900]}"], "summarization"),
    "talk is a change": ([CODE, "Tell me a bedtime story about a dragon who is afraid of the dark"], "chat"),
    "code after talk": (["hi, how are you?", "Why does my docker build fail with exit code 137?"], "code"),
    "maths after talk": (["hi!", "What is the probability of rolling two sixes in a row?"], "reasoning"),
}


@each(("turns", "label"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_keeps_its_class_unless_the_last_turn_changes_it(turns: list[str], label: str) -> None:
    assert classify(turns).label == label


def test_a_kept_class_says_so() -> None:
    assert classify([CODE, "now in Rust please"]).kept
    assert not classify(["hi!", CODE]).kept
    assert not classify([CODE]).kept


def test_a_follow_up_on_a_long_text_stays_long_context() -> None:
    assert classify([f"{ARTICLE}\n\nWho spoke against the road?", "and what else?"]).label == "long-context"


def test_a_long_system_prompt_does_not_drown_the_question() -> None:
    system = "You are a senior Python engineer. Write code, fix bugs, explain tracebacks, review pull requests. " * 80
    assert classify(["Tell me a bedtime story about a dragon who is afraid of the dark"], system).label == "chat"
    assert classify(["Summarize this article in two sentences:\n\n" + ARTICLE[:900]], system).label == "summarization"


def test_a_low_margin_falls_back_to_the_safe_class_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "LOW_MARGIN", 1.0)
    assert (classify([CODE]).label, classify([CODE]).fallback) == ("chat", True)
    assert classify([CODE], safe="code").label == "code"


def test_a_long_turn_of_low_margin_is_long_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "LOW_MARGIN", 1.0)
    answer = classify([f"Summarize this\n\n{ARTICLE}"])
    assert (answer.label, answer.fallback) == ("long-context", False)


def test_a_clear_prompt_does_not_fall_back() -> None:
    assert not classify([CODE]).fallback


OBVIOUS: dict[str, Sequence[str]] = {
    "code": [
        "Write a Java method that reverses a linked list",
        "why does my docker build fail with exit code 1?",
        "Traceback (most recent call last):\n  File \"a.py\", line 3, in <module>\nKeyError: 'id'",
        "SELECT * FROM orders WHERE total > 100 -- how do I speed this up?",
        "git: how do I undo the last two commits",
        "¿Cómo leo un archivo CSV en Python?",
        "Écris une fonction Python qui trie une liste",
        "Schreibe ein Bash-Skript, das alte Logdateien löscht",
        "Напиши функцию на Python, которая проверяет палиндром",
        "用Python写一个快速排序函数",
        "Pythonでリストを並べ替えるコードを書いて",
        "파이썬으로 리스트 정렬하는 코드 알려줘",
    ],
    "reasoning": [
        "A train travels 180 km in 2.5 hours. What is its average speed?",
        "Prove that the sum of two even numbers is even.",
        "Solve the equation 2x + 9 = 21",
        "Si 4 libros cuestan 36 euros, ¿cuánto cuestan 7 libros?",
        "Démontre que la racine de 5 est irrationnelle.",
        "Wie groß ist die Wahrscheinlichkeit, mit zwei Würfeln eine 9 zu werfen?",
        "Реши уравнение 4x - 6 = 18",
        "小明有30个苹果，吃了三分之一，还剩多少个？",
        "時速50kmの車が200km進むのに何時間かかりますか？",
    ],
    "summarization": [
        "Summarize the following article in two sentences:\n\n" + ARTICLE[:700],
        ARTICLE[:700] + "\n\ntl;dr",
        "Resume el siguiente texto en una frase:\n\n" + ARTICLE[:700],
        "Fasse den folgenden Text kurz zusammen:\n\n" + ARTICLE[:700],
        "Résume ce texte en deux phrases :\n\n" + ARTICLE[:700],
        "Кратко перескажи текст:\n\n" + ARTICLE[:700],
        "请总结以下文章的主要内容：\n\n" + ARTICLE[:700],
        "次の文章を要約してください：\n\n" + ARTICLE[:700],
    ],
    "extraction": [
        "Extract all person names and dates from the text below as JSON.\n\n" + ARTICLE[:700],
        "Return a JSON object with the invoice number, date and total:\n\nInvoice 881, 3 May 2024, total 90.00 EUR",
        "Extrae los nombres y las fechas del texto en una tabla:\n\n" + ARTICLE[:700],
        "Extrahiere alle Namen und Orte aus dem Text als JSON:\n\n" + ARTICLE[:700],
        "Извлеки все имена и даты из текста в JSON:\n\n" + ARTICLE[:700],
        "从以下文本中提取所有人名和地点，以JSON格式输出：\n\n" + ARTICLE[:700],
    ],
    "chat": [
        "hi, how are you?",
        "Write a poem about the sea",
        "What should I cook for dinner tonight?",
        "Who painted the Mona Lisa?",
        "hola, ¿qué tal?",
        "Écris une lettre à ma grand-mère",
        "Erzähl mir einen Witz",
        "посоветуй хороший фильм на вечер",
        "推荐几本好看的小说",
        "おすすめの映画を教えて",
        "merhaba, nasılsın?",
        "احك لي نكتة",
    ],
}


@each(("label", "text"), [(label, text) for label, some in OBVIOUS.items() for text in some])
def test_an_obvious_prompt(label: str, text: str) -> None:
    assert classify([text]).label == label


def test_reasons_have_readable_names() -> None:
    names = [name for name, _ in classify(["```\ndef f(x):\n    return x\n```\nwhy does this function fail?"]).features]
    assert names
    assert all(name.isprintable() for name in names)
    assert "shape:fence" in features("```\nx\n```")
    assert "shape:latex" in features(r"what is $\frac{x}{2}$")
    assert "shape:latex" not in features("```\ncost = $5\n```")
    assert "ask:summarize" in features("Please summarize this")
    assert "how many" in features("how many apples?")


def test_the_weights_file_has_a_byte_per_class_for_each_feature() -> None:
    head, weights, *names = (DATA / "classifier.weights").read_text(encoding="utf-8").split("\n")[:-1]
    about = json.loads(head)
    assert about["labels"] == list(LABELS)
    assert about["features"] == len(names) == len(set(names)) == len(bytes.fromhex(weights)) / len(LABELS)
    assert names == sorted(names)
    assert "bias" in names


def test_the_lexicon_has_no_entry_that_cannot_be_found() -> None:
    for line in (DATA / "classifier.lexicon").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, _, entries = line.partition(":")
        for entry in (entry.strip() for entry in entries.split(",")):
            probe = entry[:-1] + "xx" if entry.endswith("*") else entry
            assert f"ask:{name}" in features(probe), entry


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_classifier", PROJECT / "scripts" / "train_classifier.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_rows_give_the_same_weights(trainer: ModuleType) -> None:
    rows = [{"text": text, "label": label, "source": text[:1]} for label, some in OBVIOUS.items() for text in some]
    weights = trainer.train(rows)
    assert weights == trainer.train(rows)
    assert len(weights.splitlines()) > 50


LICENCES = {
    "CC0": True,
    "MIT": True,
    "CC-BY 4.0": True,
    "Apache-2.0": True,
    None: False,
    "": False,
    "CC BY-NC-SA 3.0": False,
    "CC-BY-NC 4.0": False,
    "Creative Commons Attribution-NonCommercial": False,
    "free for non-commercial use": False,
    "Non Commercial": False,
    "GPL-3.0 (repo)": False,
    "Apache-2.0 (MLSUM text, research)": False,
    "Apache-2.0 (MLSUM text)": False,
    "Apache-2.0 (XSum/BBC text)": False,
}


def test_rows_are_learned_from_where_a_licence_allows_it(trainer: ModuleType, tmp_path: Path) -> None:
    rows = [{"text": "x", "label": "chat", "licence": licence} for licence in LICENCES]
    rows.append({"text": "x", "label": "chat"})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [row["licence"] for row in trainer.read([tmp_path])] == [name for name, may in LICENCES.items() if may]
    assert len(list(trainer.read([tmp_path], any_licence=True))) == len(rows)


def test_our_own_prompts_are_well_formed() -> None:
    for file in [*(PROJECT / "training" / "prompts").glob("*.jsonl"), PROJECT / "training" / "probe.jsonl"]:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert row["label"] in LABELS
            assert row["licence"] == "CC0"
            assert row.get("text") or row["turns"]


def _macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    def f1(label: str) -> float:
        both = sum(true == label == guess for true, guess in pairs)
        return 2 * both / sum((true == label) + (guess == label) for true, guess in pairs)

    present = {true for true, _ in pairs}
    return sum(map(f1, present)) / len(present)


def test_it_guesses_well_on_prompts_it_was_not_trained_on() -> None:
    lines = (PROJECT / "training" / "probe.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert _macro_f1([(row["label"], classify([row["text"]]).label) for row in rows]) >= 0.88


def test_no_training_prompt_is_one_of_those_it_is_judged_by(trainer: ModuleType) -> None:
    def plain(row: dict[str, Any]) -> str:
        return "".join(filter(str.isalnum, trainer.turns(row)[-1].lower()))

    judged = [PROJECT / "training" / "probe.jsonl", *([TASKS] if TASKS.exists() else [])]
    known = {plain(row) for row in trainer.read([PROJECT / "training" / "prompts"])}
    shared = {plain(row) for row in trainer.read(judged, any_licence=True)} & known
    assert {text for text in shared if len(text) > len("whats up")} == set()


def test_it_guesses_well_on_labelled_prompts_that_it_may_not_be_trained_on(trainer: ModuleType) -> None:
    """Those whose licence forbids it: weights made from them, or a classifier gone wrong, would show here."""
    if not TASKS.exists():
        pytest.skip("the labelled prompts are not beside the project")
    rows = [row for row in trainer.read([TASKS], any_licence=True) if not trainer.allowed(row)]
    assert len(rows) > 500
    assert _macro_f1([(row["label"], _guess(row, classifier.load()).label) for row in rows]) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_it_guesses_well_on_prompts_of_sources_that_it_was_not_trained_on(trainer: ModuleType, number: int) -> None:
    """Weights made without half of the sources, and judged by that half."""
    if not TASKS.exists():
        pytest.skip("the labelled prompts are not beside the project")
    rows = list(trainer.read([TASKS], any_licence=True))
    held = trainer.folds(rows, 2)[number]
    taken = [row for row in rows if trainer.allowed(row) and trainer.origin(row) not in held]
    model = classifier.parse(trainer.train([*trainer.read([PROJECT / "training" / "prompts"]), *taken], seeds=[7]))
    judged = [row for row in rows if trainer.origin(row) in held]
    assert len(judged) > len(rows) // 3
    assert _macro_f1([(row["label"], _guess(row, model).label) for row in judged]) >= 0.72


def test_a_fold_holds_whole_sources(trainer: ModuleType) -> None:
    sources = [*["a: x"] * 4, *["a: y"] * 2, *["b"] * 5, *["c"] * 1]
    assert trainer.folds([{"source": source} for source in sources], 2) == [{"a"}, {"b", "c"}]


def test_the_report_counts_apart_what_was_trained_on(tmp_path: Path) -> None:
    rows = [{"text": CODE, "label": "code", "licence": licence, "lang": "en"} for licence in ("CC0", "GPL-3.0")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    script, unseen = PROJECT / "scripts" / "classifier_report.py", PROJECT / "training" / "probe.jsonl"
    words: list[str | Path] = [sys.executable, script, tmp_path / "rows.jsonl", "--unseen", unseen]
    said = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^trained on +1 rows .* macro-F1 1\.000$", said, re.MULTILINE)
    assert re.search(r"^not trained on +633 rows ", said, re.MULTILINE)


def test_the_makefile_names_rows_for_the_report() -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    said = subprocess.run(["make", "-n", "classifier-report"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "--unseen training/probe.jsonl" in said.stdout


def _guess(row: dict[str, Any], model: Model) -> Classified:
    said: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
    for message in row["messages"]:
        said[message["role"]].append(message["content"])
    return classify(said["user"], "\n".join(said["system"]), model=model)
