"""The keys for a command of this machine: through the admin socket while the gateway runs, straight in the file while
it does not. So a command that root runs leaves nothing in the file's place that the gateway may not read.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import orjson

from proxy.accounts.asking import read_grace, read_wanted
from proxy.accounts.keys import Key
from proxy.record import define, frozen
from proxy.server.keys.changes import Keys

PATIENCE = 30.0  # seconds for the gateway's answer


class DeskRefused(Exception):
    """What was asked for cannot be done; the text says why."""


class Desk(Protocol):
    """Each gives the JSON of a key, or of all. Raises DeskRefused, GatewayError or LedgerRefused."""

    def create(self, wanted: dict[str, Any]) -> dict[str, Any]: ...
    def list(self) -> list[dict[str, Any]]: ...
    def show(self, id: str) -> dict[str, Any]: ...
    def rotate(self, id: str, grace: int) -> dict[str, Any]: ...
    def revoke(self, id: str) -> dict[str, Any]: ...


@frozen
class Remote:
    """Through the admin socket."""

    path: Path

    def create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", "", wanted)

    def list(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("GET", "")["data"]
        return found

    def show(self, id: str) -> dict[str, Any]:
        return self._ask("GET", f"/{quote(id, '')}")

    def rotate(self, id: str, grace: int) -> dict[str, Any]:
        return self._ask("POST", f"/{quote(id, '')}/rotate", {"grace_seconds": grace})

    def revoke(self, id: str) -> dict[str, Any]:
        return self._ask("POST", f"/{quote(id, '')}/revoke", {})

    def _ask(self, method: str, path: str, document: Any = None) -> dict[str, Any]:
        return ask(self.path, method, f"/admin/keys{path}", document)


def ask(socket_path: Path, method: str, path: str, document: Any = None) -> dict[str, Any]:
    """Of the gateway that serves on this admin socket. Raises DeskRefused, with what it said."""
    connection = _Connection(socket_path)
    body = None if document is None else orjson.dumps(document)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = orjson.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise DeskRefused(f"The gateway on {socket_path} does not answer: {exc}.") from exc
    finally:
        connection.close()
    if response.status >= 400:
        raise DeskRefused(str(answer.get("error", {}).get("message", f"status {response.status}")))
    return dict(answer)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = _connected(self._path, self.timeout)


def _connected(path: Path, timeout: float | None) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX)
    opened.settimeout(timeout)
    try:
        opened.connect(str(path))
    except OSError:
        opened.close()
        raise
    return opened


@define(eq=False)
class Direct:
    """In the file itself."""

    keys: Keys
    prefix: str
    projects: Collection[str]

    def create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        asked = read_wanted(wanted, self.projects, self.keys.now_ms())
        make_home(self.keys.store.path.parent)
        key, whole = self.keys.create(asked, self.prefix)
        give_back(self.keys.store.path)
        return {"key": whole, **self._shown(key)}

    def list(self) -> list[dict[str, Any]]:
        return self.keys.shown(*self.keys.all())

    def show(self, id: str) -> dict[str, Any]:
        return self._shown(self.keys.one(id))

    def rotate(self, id: str, grace: int) -> dict[str, Any]:
        key, whole = self.keys.rotate(id, read_grace({"grace_seconds": grace}))
        return {"key": whole, **self._shown(key)}

    def revoke(self, id: str) -> dict[str, Any]:
        return self._shown(self.keys.revoke(id))

    def _shown(self, key: Key) -> dict[str, Any]:
        return self.keys.shown(key)[0]


def make_home(directory: Path) -> None:
    """As the gateway would at its first start. Raises DeskRefused."""
    if directory.exists():
        return
    missing = [it for it in (directory, *directory.parents) if not it.exists()]
    try:
        directory.mkdir(parents=True, mode=0o700)
        for made in reversed(missing):
            _give(made, made.parent)
    except OSError as exc:
        raise DeskRefused(f"The state directory {directory} cannot be made: {exc.strerror}.") from exc


def give_back(path: Path) -> None:
    """A file that root has just made belongs to whom the directory belongs."""
    for file in (path, *path.parent.glob(f"{path.name}-*")):
        _give(file, path.parent)


def _give(made: Path, directory: Path) -> None:
    if os.geteuid() == 0:
        owner = directory.stat()
        os.chown(made, owner.st_uid, owner.st_gid)


def runs(path: Path) -> bool:
    """Whether a gateway answers on its admin socket. Raises DeskRefused where this user may not ask it."""
    try:
        _connected(path, PATIENCE).close()
    except PermissionError as exc:
        raise DeskRefused(f"This user may not use {path}: run the command as the gateway's user, or as root.") from exc
    except OSError:
        return False
    return True
