"""The shape of the tree: which way imports point, what stays out of the core, how large and what things are called."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "proxy"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Lowest first. What stands on one line are siblings, which do not know each other.
LAYERS = (
    ("record",),
    ("errors", "secret"),
    ("wire",),
    ("ir",),
    ("catalog",),
    ("dialects",),
    ("streams",),
    ("accounts", "routing", "metrics"),
    ("server",),
    ("app",),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# The clock, the dice and the world outside are arguments of the core.
OUTSIDE = {
    "aiohttp", "asyncio", "http.client", "logging", "multiprocessing", "os", "random", "secrets", "select", "signal",
    "socket", "sqlite3", "ssl", "structlog", "subprocess", "threading", "time", "urllib.request", "uuid", "uvloop",
    "watchfiles",
}  # fmt: skip

# What lives as long as the process, by the name it is built with.
LONG_LIVED = {
    "Admin", "Affinity", "Alerts", "App", "Books", "Builder", "Discovery", "Gateway", "Health", "KeyRing", "KeyAdmin",
    "Keys", "Latencies", "Ledger", "Listener", "Metrics", "Notifier", "Probing", "Relay", "Reloader", "Stalled",
    "UpstreamPool",
}  # fmt: skip
RESOURCES = {
    "ClientSession", "TCPConnector", "Thread", "ThreadPoolExecutor", "Task", "connect", "create_task", "ensure_future",
    "getaddrinfo", "new_event_loop", "open", "socket", "start_server",
}  # fmt: skip
TASKS = {"create_task", "ensure_future", "run_in_executor", "TaskGroup", "call_soon_threadsafe"}

MOST_LINES, MOST_FUNCTION_LINES = 600, 60
NO_NAMES = {"util", "utils", "helper", "helpers", "common", "manager", "base", "misc"}
LATER = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def nodes(module: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(module)))


def room(module: str) -> str:
    """The part of the package that a module belongs to; the package itself has none."""
    return module.split(".")[1] if "." in module else ""


def imports(module: str) -> Iterator[str]:
    """Every module that this one imports, wherever in it the import stands."""
    for node in nodes(module):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(source), names=names, level=0):
                yield from (f"{source}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                yield "." * node.level


def name_of(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ast.unparse(call.func).rpartition(".")[2]


def calls_at_import(node: ast.AST) -> Iterator[ast.Call]:
    """Calls that run when the module is imported: not those in functions, but those in classes and decorators."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in child.decorator_list:
                yield from calls_at_import(decorator)
            continue
        if isinstance(child, ast.Lambda):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from calls_at_import(child)


def cancels_in_the_end(function: ast.AST) -> bool:
    ends = [node for tried in ast.walk(function) if isinstance(tried, ast.Try) for node in tried.finalbody]
    return any(isinstance(call, ast.Call) and name_of(call) == "cancel" for node in ends for call in ast.walk(node))


def test_every_module_stands_in_a_layer() -> None:
    rooms = {room(module) for module in MODULES} - {""}
    assert rooms == set(LEVEL)


def test_imports_point_downwards() -> None:
    for module in [module for module in MODULES if room(module)]:
        own = room(module)
        for imported in imports(module):
            assert not imported.startswith("."), f"{module} imports by a relative name: {imported}"
            if imported == "proxy" or not imported.startswith("proxy."):
                continue
            other = room(imported)
            allowed = other == own or LEVEL[other] < LEVEL[own]
            assert allowed, f"{module} ({own}) imports {imported} ({other})"


def test_the_core_touches_no_clock_no_dice_and_no_socket() -> None:
    for module in [module for module in MODULES if room(module) and LEVEL[room(module)] < LEVEL["server"]]:
        for imported in imports(module):
            outside = [one for one in OUTSIDE if imported == one or imported.startswith(f"{one}.")]
            assert not outside, f"{module} imports {imported}"


def test_the_core_awaits_nothing() -> None:
    for module in [module for module in MODULES if room(module) and LEVEL[room(module)] < LEVEL["server"]]:
        waiting = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
        assert not [(module, node.lineno) for node in nodes(module) if isinstance(node, waiting)]


def test_nothing_that_lasts_is_made_by_an_import() -> None:
    for module in MODULES:
        for call in calls_at_import(tree(module)):
            assert name_of(call) not in LONG_LIVED | RESOURCES, f"{module}:{call.lineno} makes {name_of(call)}"


def test_only_the_app_builds_what_lives_as_long_as_the_process() -> None:
    """`field(factory=…)` names a class and does not build one: the app may hand in another."""
    for module in [module for module in MODULES if room(module) not in ("app", "cli")]:
        own = {node.name for node in nodes(module) if isinstance(node, ast.ClassDef)}
        for node in nodes(module):
            if isinstance(node, ast.Call) and name_of(node) in LONG_LIVED - own:
                pytest.fail(f"{module}:{node.lineno} builds {name_of(node)}")


def test_a_task_that_the_app_does_not_own_ends_where_it_was_started() -> None:
    """Only the app has background tasks; elsewhere the function that starts one cancels it in its `finally`."""
    for module in [module for module in MODULES if room(module) != "app"]:
        for function in nodes(module):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            started = [node for node in ast.walk(function) if isinstance(node, ast.Call) and name_of(node) in TASKS]
            assert not started or cancels_in_the_end(function), f"{module}:{started[0].lineno} starts a task"


def test_modules_and_functions_stay_small() -> None:
    for module in MODULES:
        assert len(MODULES[module].read_text().splitlines()) <= MOST_LINES, module
        for node in nodes(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                assert lines <= MOST_FUNCTION_LINES, f"{module}:{node.lineno} {node.name} has {lines} lines"


def test_every_file_is_named_for_its_subject() -> None:
    for folder in ("proxy", "tests", "scripts"):
        for path in (ROOT / folder).rglob("*"):
            assert path.stem.removeprefix("test_").lower() not in NO_NAMES, path


def test_every_module_says_what_it_is() -> None:
    for module in [module for module in MODULES if not module.endswith("__main__")]:
        empty = not MODULES[module].read_text().strip()
        assert empty or ast.get_docstring(tree(module)), module


def test_nothing_is_left_for_later() -> None:
    for module in MODULES:
        text = MODULES[module].read_text()
        if not any(word in text for word in LATER):
            continue
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.COMMENT, tokenize.NAME, tokenize.STRING):
                found = [word for word in LATER if word in token.string]
                assert not found, f"{module}:{token.start[0]} {found[0]}"


def test_no_error_is_swallowed_whole() -> None:
    """`except Exception` stands only where the last line of defence is; a bare `except` nowhere."""
    for module in MODULES:
        for node in nodes(module):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{module}:{node.lineno} has a bare except"
                silent = all(isinstance(statement, ast.Pass) for statement in node.body)
                assert not silent, f"{module}:{node.lineno} passes over an error in silence"
