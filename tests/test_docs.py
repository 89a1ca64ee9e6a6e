"""The documents hold together, and what they show can be copied and pasted: each command and program is run."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import attrs
import orjson
import pytest
from attrs import evolve, frozen
from each import each
from pages import (
    BARE,
    DIALECTS,
    KEYS,
    OPERATIONS,
    PAGES,
    README,
    ROOT,
    ROUTES,
    VARIABLES,
    blocks,
    flowing,
    named,
    rows,
    section,
    spans,
)
from upstream import GUARD_S

from proxy import cli
from proxy.metrics import SPECS
from proxy.routing.table import Server, Table
from proxy.server import admin, endpoints
from proxy.server.byok.admin import VaultAdmin
from proxy.server.keys.admin import KeyAdmin
from proxy.server.reload import load_table, restart_needed
from proxy.server.respond import STATUS

# -- pages -------------------------------------------------------------------------------------------------------


@each("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        if not re.match(r"[a-z]+:", target):
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_tests_that_show_a_promise_are_there() -> None:
    page = PAGES["docs/threat-model.md"]
    named_tests = set(re.findall(r"`(tests/[\w/]+\.py)`", page))
    assert len(named_tests) > 10
    assert not [path for path in named_tests if not (ROOT / path).is_file()]
    for heading in re.findall(r"^## .*$", page, re.MULTILINE):
        for row in rows(section(page, heading)):
            assert row.get("shown by", "`tests/").startswith("`tests/"), row


def test_what_is_promised_for_bad_days_is_shown() -> None:
    """By rows of docs/faults.md that are built, or by tests that are there."""
    shown = set(re.findall(r"^\| ([A-Z]\d+b?) \|(?!.* not built: )", PAGES["docs/faults.md"], re.MULTILINE))
    order = re.findall(r"^\| ([A-Z]\d+b?) \|", PAGES["docs/faults.md"], re.MULTILINE)
    promises = rows(section(PAGES["docs/operations.md"], "## What is promised when something fails"))
    assert len(promises) > 15
    for row in promises:
        for one in row["shown by"].replace(" in [faults.md](faults.md)", "").split(", "):
            if one.startswith("`tests/"):
                assert (ROOT / one.strip("`")).is_file(), row
            else:
                first, _, last = one.partition(" to ")
                named = order[order.index(first) : order.index(last or first) + 1]
                assert first in shown, row
                assert len(set(named) - shown) < len(named) / 4, row


def test_the_readme_lists_every_page() -> None:
    linked = {row["page"].partition("(")[2].rstrip(")") for row in rows(section(README, "## Documentation"))}
    assert linked == PAGES.keys() - {"README.md"}


@each("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    for name in spans(PAGES[page]):
        if re.fullmatch(r"(?:proxy|server|routing|wire|dialects|accounts|catalog|cli)/[\w./]*|\w+\.py", name):
            assert (ROOT / name).exists() or (ROOT / "proxy" / name).exists(), name


@each("page", PAGES)
def test_metrics_and_codes_that_are_named_exist(page: str) -> None:
    assert set(re.findall(r"`(pointsman_\w+)`", PAGES[page])) <= SPECS.keys()
    statuses = {kind.code: status for kind, status in STATUS.items()}
    for status, code in re.findall(r"\b([45]\d\d) `(\w+)`", PAGES[page]):
        assert statuses.get(code) == int(status), code


def test_the_changelog_begins_with_this_version() -> None:
    version = re.search(r"^version = (.+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    newest = re.search(r"^## ([\d.]+)", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert version is not None
    assert newest is not None
    assert newest[1] == version[1]


@pytest.mark.parametrize("configured", [False, True])
def test_the_page_of_models_is_what_the_command_prints_wherever_it_runs(
    configured: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        value = "http://127.0.0.1:9" if name.endswith("_URL") else "set"
        monkeypatch.setenv(name, value if configured else "")
    assert cli.main(["models", "--markdown", "--config", str(ROOT / "routes.toml")]) == 0
    assert capsys.readouterr().out == PAGES["docs/models.md"]


# -- what can be copied and pasted -------------------------------------------------------------------------------


@frozen
class Served:
    """The shipped table, served by the command, on ports of its own. `asked` is the id of one request."""

    data: str
    admin: str
    state: Path
    asked: str

    def here(self, text: str) -> str:
        """What the docs show, for these ports, this state and this Python."""
        for shown, real in (
            ("127.0.0.1:8080", self.data),
            ("127.0.0.1:8081", self.admin),
            (".venv/bin/pointsman", f"{shlex.quote(sys.executable)} -m proxy"),
            (".state", str(self.state)),
            ("REQUEST_ID", self.asked),
        ):
            text = text.replace(shown, real)
        return text

    def run(self, *command: str) -> str:
        wide = {**BARE, "COLUMNS": "160"}  # a page's width, wherever the tests run
        done = subprocess.run(
            command, cwd=ROOT, env=wide, capture_output=True, text=True, timeout=6 * GUARD_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="pm-") as home:
        config, state = Path(home, "routes.toml"), Path(home, "state")
        config.write_text(re.sub(r"127\.0\.0\.1:808[01]\b", "127.0.0.1:0", ROUTES))
        child = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", "--config", str(config)],
            cwd=ROOT,
            env={**BARE, "STATE_DIRECTORY": str(state)},
            stderr=subprocess.PIPE,
        )
        try:
            assert child.stderr is not None
            said = map(orjson.loads, iter(child.stderr.readline, b""))
            serving = next(line for line in said if line["event"] == "serving")
            asked = _asked(serving["listen"][0])
            assert asked in _over_socket(state, f"/admin/decisions/{asked}")
            yield Served(serving["listen"][0], serving["admin"][0], state, asked)
        finally:
            child.terminate()
            child.communicate(timeout=GUARD_S)
        assert child.returncode == 0


def _asked(address: str) -> str:
    body = b'{"model": "embedded/echo", "messages": [{"role": "user", "content": "Good morning"}]}'
    head = f"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), GUARD_S) as connection:
        answer = _exchange(connection, head.encode() + body)
    found = re.search(r"X-Request-Id: (\w+)", answer)
    assert found is not None, answer
    return found[1]


def _over_socket(state: Path, path: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(GUARD_S)
        connection.connect(str(state / "admin.sock"))
        return _exchange(connection, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())


def _exchange(connection: socket.socket, request: bytes) -> str:
    connection.sendall(request)
    return b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n")[2].decode()


# What a command prints, by something that stands in it; the first that does counts.
PRINTS = {
    '"stream": true': "data: [DONE]",
    "/v1/chat/completions": "You said: Good morning",
    "/v1/messages": "You said: Good morning",
    "pointsman explain": "class code",
    "pointsman decisions": "embedded/echo",
    "/readyz": '"ledger":"ok"',
    "/metrics": "pointsman_requests_total{",
    "/admin/decisions?": '"next":',
    "/admin/decisions/": '"attempts":[{',
    "/admin/config": '"config":"sha256:',
    "/admin/providers": "OPENAI_API_KEY is not set",
    "/admin/reload": '"reloaded":true',
}
COMMANDS = [block for page in (README, OPERATIONS) for block in blocks(page, "sh")]


@pytest.mark.parametrize("command", [command for command in COMMANDS if "make " not in command])
def test_commands_work_as_they_stand(command: str, served: Served) -> None:
    if command.startswith("curl") and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    expected = next(prints for part, prints in PRINTS.items() if part in command)
    assert expected in served.run("bash", "-c", served.here(command))


def test_what_make_is_asked_for_it_can_do() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {command.rpartition("make ")[2] for command in COMMANDS if "make " in command}
    assert {"run", "test"} <= asked
    assert asked <= targets


def test_make_uses_no_variable_that_it_does_not_know() -> None:
    """A recipe with such a one runs something else than it says, and make does not mind."""
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    python = f"PYTHON={sys.executable}"  # not looked for anew wherever it stands
    dry = ["make", "--always-make", "--dry-run", "--warn-undefined-variables", python, *targets]
    told = subprocess.run(dry, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stderr
    assert "undefined" not in told, told


def python_with(library: str) -> str | None:
    """This one, or that of the environment which `make test-slow` makes for what wants other versions."""
    others = Path(sys.prefix, "clients")
    if find_spec(library) is not None:
        return sys.executable
    return str(others / "bin" / "python") if any(others.glob(f"lib/*/site-packages/{library}")) else None


# Each as the only one, but in one process: reading a library takes longer than all that its programs do.
EACH = "import sys\nfor program in sys.argv[1:]: exec(program, {'__name__': '__main__'})"


def programs() -> Iterator[Any]:
    """By the library that they show, one of them among the fast tests. What the tests' own extra does not bring along
    is skipped without it."""
    found: dict[str, list[str]] = {}
    for program in (*blocks(README, "python"), *blocks(PAGES["docs/clients.md"], "python")):
        found.setdefault(re.findall(r"^from (\w+)", program, re.MULTILINE)[0], []).append(program)
    for library, shown in found.items():
        marks = [] if library == "openai" else [pytest.mark.slow]
        python = python_with(library)
        if python is None:
            marks.append(pytest.mark.skip(reason=f"{library} is not installed"))
        yield pytest.param(python, shown, id=library, marks=marks)


@pytest.mark.parametrize(("python", "shown"), list(programs()))
def test_programs_work_as_they_stand(python: str, shown: list[str], served: Served) -> None:
    told = served.run(python, "-c", EACH, *map(served.here, shown))
    assert told == "You said: Good morning\n" * len(shown)


def test_the_readme_names_the_variables_that_the_table_reads() -> None:
    told = {row["provider"]: set(spans(row["variables"])) for row in rows(section(README, "## With keys"))}
    providers = tomllib.loads(ROUTES)["providers"]
    read = {name: set(re.findall(r"\$\{(\w+)\}", str(block))) for name, block in providers.items()}
    assert told == {name: variables for name, variables in read.items() if variables}


def test_the_readme_names_the_models_that_a_key_adds() -> None:
    told = {row["provider"]: spans(row["what joins"]) for row in rows(section(README, "## With keys"))}
    loaded = load_table(ROUTES.encode(), {})
    for name, joins in told.items():
        patterns = [entry for entry in joins if "NAME" not in entry]
        own = [id for id, entry in loaded.models.items() if entry.provider == name]
        assert set(patterns) == set(loaded.providers[name].models or own)


def test_with_a_key_the_echo_leaves_auto_and_stays_by_its_name() -> None:
    assert load_table(ROUTES.encode(), {}).first_run
    loaded = load_table(ROUTES.encode(), {"OPENAI_API_KEY": "canary-0001"})
    assert not loaded.first_run
    assert "embedded/echo" in loaded.models


# -- commands ----------------------------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands, by name."""
    parser = cast(Any, cli)._parser()
    (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


@pytest.mark.parametrize("name", ["", *commands()])
def test_help_shows_examples_that_the_command_takes(name: str) -> None:
    parser = cast(Any, cli)._parser()
    text = commands()[name].format_help() if name else parser.format_help()
    _, found, examples = text.partition("example")
    assert found
    lines = [line.strip() for line in examples.splitlines()[1:] if line.strip()]
    assert lines
    for line in lines:
        program, *words = shlex.split(re.split(r" (?:>|<|\||\|\||&&) ", line)[0])
        assert program == "pointsman"
        assert not name or words[0] == name
        parser.parse_args(words)


def test_every_command_is_told_and_no_other() -> None:
    assert {span.split()[1] for span in named(section(OPERATIONS, "## Commands"), "command")} == commands().keys()


EXITS: dict[str, tuple[int, list[str]]] = {
    "a good table": (0, ["check", str(ROOT / "routes.toml")]),
    "a bad table": (1, ["check", str(ROOT / "setup.cfg")]),
    "a model that does not resolve": (1, ["explain", "no-such-model", "--config", str(ROOT / "routes.toml")]),
    "words that no command has": (2, ["polish"]),
    "a table that cannot be read": (3, ["check", str(ROOT / "no-such-file.toml")]),
    "a ledger that is not there": (3, ["decisions", "--state", str(ROOT / "no-such-directory")]),
}


@pytest.mark.parametrize(("code", "words"), EXITS.values(), ids=EXITS)
def test_commands_exit_with_the_codes_that_are_told(
    code: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        ended = cli.main(words)
    except SystemExit as exc:  # argparse's own way
        ended = int(exc.code or 0)
    assert ended == code
    assert code or not capsys.readouterr().err
    told = [int(row["exit code"]) for row in rows(section(OPERATIONS, "## Commands"), "exit code")]
    assert told == sorted({*(code for code, _ in EXITS.values()), 130})


def test_a_start_that_is_refused_is_told_in_one_sentence() -> None:
    words = ["serve", "--config", str(ROOT / "no-such-file.toml")]
    done = subprocess.run([sys.executable, "-m", "proxy", *words], cwd=ROOT, env=BARE, capture_output=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith(b"pointsman: ")
    assert done.stderr.count(b"\n") == 1


# -- operations --------------------------------------------------------------------------------------------------


def test_the_keys_that_need_a_restart_are_told() -> None:
    sentence = flowing(section(OPERATIONS, "## Reload")).partition("take effect at the next start only")[2]
    told = set(spans(sentence)) - {"restart_needed"}
    old = Table(revision="sha256:0")
    needed = set()
    for column in attrs.fields(Server):
        changed: dict[str, Any] = {column.name: object()}
        if restart_needed(old, evolve(old, server=evolve(old.server, **changed))):
            needed.add(column.name)
    assert told == needed


def test_the_filters_of_decisions_are_told() -> None:
    text = flowing(section(OPERATIONS, "## The admin socket"))
    told = set(spans(text.partition("Filters are exact: ")[2].partition(" of the one after")[0])) - {"next"}
    assert told == {*admin.WORDS, *admin.NUMBERS, "failed", "fallback", "limit", "before"}


def test_every_path_is_told() -> None:
    nobody = cast(Any, None)  # nothing is served, the paths are only listed
    told = {span.rpartition(" ")[2] for page in (DIALECTS, OPERATIONS, KEYS) for span in spans(page)}
    told |= set(re.findall(r"(?:localhost|127\.0\.0\.1:808\d)(/[\w/]+)", OPERATIONS))
    for path in (
        *endpoints.data_paths(nobody),
        *admin.Admin(
            nobody, nobody, nobody, nobody, KeyAdmin(nobody, nobody), VaultAdmin(nobody, nobody), nobody
        ).paths(),
    ):
        shown = path.removesuffix("*")
        assert any(one == shown or (path.endswith("*") and one.startswith(shown)) for one in told), path


def test_the_sockets_of_state_are_those_of_the_app() -> None:
    from proxy.server.starting import ADMIN_SOCKET, LEDGER

    assert {ADMIN_SOCKET, LEDGER} <= set(spans(section(OPERATIONS, "## State")))
