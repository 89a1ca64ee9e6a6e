"""What has to hold before the process serves, and where its state is. Commands ask here as well."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from proxy.routing.loading import EXPOSED, is_exposed
from proxy.routing.table import Server, Table

LEDGER = "ledger.sqlite3"
ADMIN_SOCKET = "admin.sock"


class StartRefused(Exception):
    """The process will not serve. The message is a sentence that says how to mend it."""


def state_directory(table: Table | None, env: Mapping[str, str] = os.environ) -> Path:
    """`$STATE_DIRECTORY`, else XDG's where that is set, else `[server] state`, else XDG's default."""
    if given := env.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(given)
    if given := env.get("XDG_STATE_HOME", ""):
        return Path(given) / "pointsman"
    if table is not None and table.server.state:
        return Path(table.server.state)
    return Path.home() / ".local" / "state" / "pointsman"


def check_parser() -> None:
    """Raises StartRefused without aiohttp's C parser: the other one has let requests be smuggled."""
    if not _is_c_parser():
        raise StartRefused(
            "aiohttp runs without its C parser, which this gateway needs for safety: unset AIOHTTP_NO_EXTENSIONS, or "
            "install a wheel of aiohttp that has it (pip install --force-reinstall aiohttp)."
        )


def _is_c_parser() -> bool:
    from aiohttp import http_parser  # for which a command that reads has no use

    compiled = getattr(http_parser, "HttpRequestParserC", None)
    return compiled is not None and http_parser.HttpRequestParser is compiled


def make_state(state: Path) -> None:
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise StartRefused(
            f"The state directory {state} cannot be made ({exc.strerror}): set STATE_DIRECTORY to one that can."
        ) from exc


def check_reach(server: Server, *, keys: bool) -> None:
    """Raises StartRefused where others could call and nobody would be asked who they are. What systemd passes is seen
    when it is opened."""
    exposed = [address for address in (*server.listen, server.admin) if is_exposed(address)]
    if exposed and not keys:
        raise StartRefused(reach_refused(exposed[0], server.auth))


def reach_refused(address: str, auth: str) -> str:
    if auth == "none":
        return f"{address} {EXPOSED}."
    return (
        f"{address} can be reached from other machines, and no key has been made yet to tell callers apart. Make one "
        "first, `pointsman keys create --name NAME` with this state directory, or listen on 127.0.0.1, [::1] or "
        '"unix:/path".'
    )
