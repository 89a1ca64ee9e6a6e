"""Say how soon providers are released when many clients leave at once: milliseconds, by the provider's own clock.

    python scripts/bench_leaving.py [--clients 500]

The gateway, the provider and the clients are processes of their own, so that none of them waits for another's Python.
Clients leave amid their streams, then while they wait for a first byte. They hang up with a reset, as a program does
that ends.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 5
LINES = ('{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
         '[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}')  # fmt: skip
EVENT = f"data: {LINES}\n\n".encode()
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (
    len(EVENT),
    EVENT,
)
TABLE = """
[server]
listen = ["127.0.0.1:0"]
admin = "127.0.0.1:0"
auth = "none"
[providers.p]
dialects = ["openai-chat"]
base_url = "http://127.0.0.1:{port}/v1"
api_key = "none"
connections = 10_000
[models.m]
provider = "p"
native = "m"
"""


def provide(streams: bool, clients: int) -> None:
    """Begins an answer to every request, if at all, and never ends it. Says when all have asked, and when all have
    gone the times at which they did."""
    with socket.socket() as listener, select.epoll() as poll:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        print(listener.getsockname()[1], flush=True)
        poll.register(listener, select.EPOLLIN)
        open_now: dict[int, socket.socket] = {}
        asked, gone = 0, list[float]()
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == listener.fileno():
                    one, _ = listener.accept()
                    open_now[one.fileno()] = one
                    poll.register(one, select.EPOLLIN)
                    continue
                one = open_now[descriptor]
                try:
                    data = one.recv(65536)
                except ConnectionError:
                    data = b""
                if data:
                    asked += data.count(b"POST ")
                    if streams:
                        one.sendall(BEGUN)
                    if asked == clients:
                        print("asked", flush=True)
                    continue
                gone.append(time.monotonic())
                poll.unregister(descriptor)
                open_now.pop(descriptor).close()
                if len(gone) == clients:
                    print(json.dumps(gone), flush=True)
                    asked, gone = 0, []


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def serving(home: Path, port: int) -> tuple[subprocess.Popen[bytes], int]:
    """The gateway, and the port that it serves on."""
    config, log = home / "routes.toml", home / "log"
    config.write_text(TABLE.format(port=port))
    with log.open("wb") as told:
        gateway = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", "--config", str(config)],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "STATE_DIRECTORY": str(home / "state")},
            stderr=told,
        )
    while gateway.poll() is None:
        for line in log.read_text().splitlines():
            if '"serving"' in line:
                return gateway, int(json.loads(line)["listen"][0].rpartition(":")[2])
        time.sleep(0.05)
    raise SystemExit(log.read_text())


def leave(port: int, provider: subprocess.Popen[str], *, streams: bool, clients: int) -> list[float]:
    """Milliseconds from the first client's leaving to each connection's end at the provider."""
    document = {"model": "m", "stream": streams, "messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps(document).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    opened = []
    for _ in range(clients):
        one = socket.create_connection(("127.0.0.1", port))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.sendall(head.encode() + body)
        opened.append(one)
    said(provider)
    for one in opened if streams else ():
        while b"hello" not in one.recv(65536):
            continue
    time.sleep(0.3)
    left = time.monotonic()
    for one in opened:
        one.close()
    return [1000 * (at - left) for at in json.loads(said(provider))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--provide", choices=["streams", "nothing"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.provide:
        provide(asked.provide == "streams", asked.clients)
        return
    for kind in ("streams", "nothing"):
        command = [sys.executable, __file__, "--clients", str(asked.clients), "--provide", kind]
        provider = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with tempfile.TemporaryDirectory(prefix="pm-") as home:
            gateway, port = serving(Path(home), int(said(provider)))
            rounds = [leave(port, provider, streams=kind == "streams", clients=asked.clients) for _ in range(ROUNDS)]
            gateway.terminate()
            gateway.wait()
        provider.kill()
        provider.wait()
        half, last = (statistics.median(pick(it) for it in rounds) for pick in (statistics.median, max))
        worst = max(map(max, rounds))
        when = "amid a stream" if kind == "streams" else "before a first byte"
        told = f"half are released after {half:.0f} ms, the last after {last:.0f}, {worst:.0f} at worst"
        print(f"{asked.clients} that leave {when}: {told}")


if __name__ == "__main__":
    main()
