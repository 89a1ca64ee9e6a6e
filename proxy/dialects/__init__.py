"""Every wire format the gateway knows, by name. A new one is a module and a line here.

`DIALECTS` are those that clients speak; providers speak all `UPSTREAMS`. But for the one that nearly everybody speaks,
a module is read when somebody first asks for its format: whoever takes a table asks for those of its providers, and a
start for those of clients when it listens already (`server.behind`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import TypeVar

from proxy.dialects import openai_chat
from proxy.dialects.dialect import Dialect, Upstream

Known = TypeVar("Known", bound=Upstream)

# The modules of this package that hold them.
OF_CLIENTS = {
    "openai-chat": "openai_chat",
    "openai-responses": "openai_responses",
    "anthropic": "anthropic",
    "workers-ai": "workers_ai",
}
OF_PROVIDERS = {"gemini": "gemini", "ollama": "ollama"}


class Registry(MutableMapping[str, Known]):
    def __init__(self, modules: Mapping[str, str], read: Mapping[str, Known]) -> None:
        self._modules = modules
        self._known: dict[str, Known | None] = {**dict.fromkeys(modules), **read}  # None: not read yet

    def __getitem__(self, name: str) -> Known:
        if (known := self._known[name]) is None:
            known = self._known[name] = self._read(name)
        return known

    def _read(self, name: str) -> Known:
        found: Known = import_module(f"proxy.dialects.{self._modules[name]}").DIALECT
        return found

    def __setitem__(self, name: str, known: Known) -> None:
        self._known[name] = known

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known  # whether it may be read is all that is asked

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


READ = {"openai-chat": openai_chat.DIALECT}
DIALECTS: Registry[Dialect] = Registry(OF_CLIENTS, READ)
UPSTREAMS: Registry[Upstream] = Registry(OF_CLIENTS | OF_PROVIDERS, READ)

__all__ = ["DIALECTS", "UPSTREAMS", "Dialect", "Upstream"]
