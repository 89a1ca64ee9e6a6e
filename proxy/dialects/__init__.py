"""Every wire format the gateway knows, by name. A new one is a module and a line here.

`DIALECTS` are those that clients speak; providers speak all `UPSTREAMS`. Modules of formats that providers alone speak
are read when a table first has one of them.
"""

from collections.abc import Iterator, MutableMapping
from importlib import import_module

from proxy.dialects import anthropic, openai_chat, openai_responses, workers_ai
from proxy.dialects.dialect import Dialect, Upstream

DIALECTS: dict[str, Dialect] = {
    module.DIALECT.name: module.DIALECT for module in (openai_chat, openai_responses, anthropic, workers_ai)
}
OF_PROVIDERS = ("gemini", "ollama")  # modules of the same name


class Upstreams(MutableMapping[str, Upstream]):
    """Whoever takes a table asks for the dialects of its providers, so that no request waits for a module."""

    def __init__(self) -> None:
        self._known: dict[str, Upstream | None] = {**DIALECTS, **dict.fromkeys(OF_PROVIDERS)}  # None: not read yet

    def __getitem__(self, name: str) -> Upstream:
        if (known := self._known[name]) is None:
            known = self._known[name] = self._read(name)
        return known

    def _read(self, name: str) -> Upstream:
        found: Upstream = import_module(f"proxy.dialects.{name}").DIALECT
        return found

    def __setitem__(self, name: str, upstream: Upstream) -> None:
        self._known[name] = upstream

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


UPSTREAMS = Upstreams()

__all__ = ["DIALECTS", "UPSTREAMS", "Dialect", "Upstream"]
