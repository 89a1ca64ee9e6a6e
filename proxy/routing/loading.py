"""routes.toml: bytes to a checked `Table`, or every problem at once, each with its path and line.

Nothing is applied by halves: a file with one problem is refused whole. A variable that is unset or empty is no
problem: it leaves its provider unconfigured. Files named by `file:` and `credential:` are read through the caller's
function.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import ip_network
from typing import Any

import cattrs
from attrs import evolve

from proxy.routing import projects, sections, table
from proxy.routing.credentials import credential, interpolated, not_set
from proxy.routing.directive import shown
from proxy.routing.problems import Loading, Problem, TableRejected, placed
from proxy.routing.providers import check_names, provider_of
from proxy.routing.references import check_references
from proxy.routing.salvage import ROUNDS, Salvage
from proxy.routing.table import Provider, Table, is_loopback
from proxy.secret import Secret, key_bytes
from proxy.wire.forwarded import Proxies

PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9-]*-")
KEY_PREFIX = re.compile(r"[A-Za-z0-9]{1,32}", re.ASCII)
LISTEN = re.compile(r"systemd|unix:/.+|(\[[0-9A-Fa-f:.]+\]|[^:\s\[\]/]+):\d{1,5}")
HOST = re.compile(r"(\*\.)?[a-z0-9][a-z0-9.-]*")
HIGHEST_PORT = 65_535
EXPOSED = (
    'can be reached from other machines, and with auth = "none" anybody there could spend: leave auth at "keys", or '
    'listen on 127.0.0.1, [::1] or "unix:/path", with an authenticating proxy in front'
)


def load(
    raw: bytes,
    *,
    env: Mapping[str, str],
    read_file: Callable[[str], str],
    dialects: Collection[str],
    check_files: Callable[[Provider], Iterable[tuple[str, str]]] = lambda provider: (),
) -> Table:
    """Raises TableRejected with every problem found. `check_files` tells what of a provider's block names a file that
    cannot be used: its key and why."""
    state = Loading(env, read_file)
    salvage = Salvage(_document(raw))
    file = _structure(salvage, state)
    if file is None:
        raise TableRejected(placed(state.problems, raw))
    broken = len(state.problems)
    loaded = _build(file, state, dialects, "sha256:" + hashlib.sha256(raw).hexdigest()[:16])
    wrong = (*check_references(loaded), *projects.problems(file.projects, loaded))
    state.problems += [Problem(path, message) for path, message in wrong]
    for provider in loaded.providers.values():
        for key, message in check_files(provider) if provider.enabled else ():
            state.wrong(f"providers.{provider.name}.{key}", message)
    further = [evolve(it, path=salvage.placed(it.path)) for it in state.problems[broken:]]
    problems = state.problems[:broken] + [it for it in further if not salvage.blames(it.path, it.message)]
    if problems:
        raise TableRejected(placed(problems, raw))
    return loaded


def _document(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        raise TableRejected([Problem("", "the file is empty")])
    try:
        return sections.parse_toml(raw)
    except UnicodeDecodeError as exc:
        raise TableRejected([Problem("", f"not UTF-8 at byte {exc.start}")]) from exc
    except tomllib.TOMLDecodeError as exc:
        line = re.search(r"at line (\d+)", str(exc))
        raise TableRejected([Problem("", f"not TOML: {exc}", int(line[1]) if line else 0)]) from exc
    except (ValueError, ArithmeticError) as exc:  # more digits than int() or Decimal() read
        raise TableRejected([Problem("", "a number has too many digits")]) from exc
    except RecursionError as exc:
        raise TableRejected([Problem("", "nested too deeply")]) from exc


def _structure(salvage: Salvage, state: Loading) -> sections.File | None:
    """The sections; broken keys are told and left out, and entries that cannot stand without them go as a whole."""
    for round_ in range(ROUNDS):
        try:
            return sections.structure(salvage.document)
        except cattrs.BaseValidationError as exc:
            told = sections.explain(exc)
        if round_ == 0:
            state.problems += [Problem(path, message) for path, message in told]
        salvage.remove(path for path, _ in told)
    return None


def _build(file: sections.File, state: Loading, dialects: Collection[str], revision: str) -> Table:
    _check_server(file.server, state)
    _check_fetch(file.fetch, state)
    providers = {name: provider_of(name, section, state, dialects) for name, section in file.providers.items()}
    check_names(providers, state)
    removed = {name for name, provider in providers.items() if provider.embedded and not provider.enabled}
    master_key, no_master_key = _master_key("master_key", file.server.master_key, state)
    return Table(
        revision=revision,
        server=file.server,
        timeouts=file.timeouts,
        retry=file.retry,
        health=file.health,
        fetch=file.fetch,
        routing=file.routing,
        providers={name: provider for name, provider in providers.items() if name not in removed},
        models={
            id: sections.model_entry(id, section)
            for id, section in file.models.items()
            if section.provider not in removed
        },
        aliases={name: entry.entries for name, entry in file.aliases.items()},
        auto=_auto(file.auto, state),
        industries=file.industries,
        profiles=file.profiles,
        rules=tuple(_rule(rule) for rule in file.rules),
        budget_webhook=_webhook(file.server.budget_webhook, state),
        master_key=master_key,
        former_master_key=_master_key("former_master_key", file.server.former_master_key, state)[0],
        no_master_key=no_master_key,
        projects=projects.effective(file.projects, {name: entry.entries for name, entry in file.aliases.items()}),
        warnings=tuple(state.warnings),
    )


def _check_fetch(fetch: table.Fetch, state: Loading) -> None:
    for host in fetch.hosts:
        if not HOST.fullmatch(host):
            state.wrong("fetch.hosts", f'{shown(host)} is no name such as "img.example.com" or "*.example.com"')
    for network in fetch.networks:
        try:
            ip_network(network)
        except ValueError:
            state.wrong("fetch.networks", f'{shown(network)} is no network such as "10.1.0.0/16"')


def _check_server(server: table.Server, state: Loading) -> None:
    if not PREFIX.fullmatch(server.header_prefix):
        state.wrong("server.header_prefix", 'letters, digits and dashes, ending in a dash, such as "X-Nyuro-"')
    if not KEY_PREFIX.fullmatch(server.key_prefix):
        state.wrong("server.key_prefix", 'letters and digits, such as "neu"')
    for entry in server.trusted_proxies:
        try:
            Proxies.parse([entry])
        except ValueError:
            wanted = 'an address such as "10.0.0.7", a network such as "10.0.0.0/8", or "unix"'
            state.wrong("server.trusted_proxies", f"{shown(entry)} is none of: {wanted}")
    if server.workers != 1:
        state.wrong("server.workers", "one process is all there is until limits can be shared: remove it or set 1")
    if not server.listen:
        state.wrong("server.listen", 'name at least one address, such as ["127.0.0.1:8080"]')
    for place, address in [*(("server.listen", a) for a in server.listen), ("server.admin", server.admin)]:
        port = address.rpartition(":")[2]
        if not LISTEN.fullmatch(address) or (port.isdigit() and int(port) > HIGHEST_PORT):
            state.wrong(place, f'{address!r} is none of "host:port", "unix:/path", "systemd"')
        elif server.auth == "none" and is_exposed(address):
            state.wrong(place, f"{address} {EXPOSED}")
    if server.admin == "systemd":
        state.wrong("server.admin", "sockets that systemd passes carry data: name an address or a unix: path")
    if server.admin in server.listen and not server.admin.endswith(":0"):  # 0 is a port of the system's choice
        state.wrong("server.admin", "the data listener has this address: metrics and keys are served apart from it")


def _master_key(name: str, text: str | None, state: Loading) -> tuple[Secret | None, str]:
    """The key, or what is not set."""
    if text is None:
        return None, ""
    unset: list[str] = []
    key = credential(f"server.{name}", text, unset, state)
    if key and key_bytes(key) is None:
        wanted = "32 bytes are needed, in base64 or as 64 hexadecimal digits: `openssl rand -base64 32` makes them"
        state.wrong(f"server.{name}", wanted)
        return None, ""
    return (Secret(key), "") if key else (None, not_set(unset))


def _webhook(text: str | None, state: Loading) -> Secret | None:
    """None where there is none, or its variable is not set."""
    unset: list[str] = []
    url = interpolated(text or "", state.env, unset)
    if not url or unset:
        return None
    if not re.fullmatch(r"https?://[^\s/@]+[^\s]*", url):
        state.wrong("server.budget_webhook", "an address such as https://hooks.example.com/budget is needed")
    return Secret(url)


def is_exposed(address: str) -> bool:
    """Whether a listener there can be reached from other machines, as far as its address tells."""
    return not (address == "systemd" or address.startswith("unix:") or is_loopback(address.rpartition(":")[0]))


def _auto(lists: Mapping[str, Any], state: Loading) -> table.Auto:
    found: dict[str, tuple[str, ...]] = {}
    safe = "chat"
    for key, value in lists.items():
        label = table.SYNONYMS.get(key, key)
        if key == "safe":
            safe = table.SYNONYMS.get(str(value), str(value))
            if safe not in table.LABELS:
                state.wrong("auto.safe", f"one of {', '.join(table.LABELS)}")
        elif label not in table.LABELS:
            state.wrong(f"auto.{key}", f"no class of that name; the classes are {', '.join(table.LABELS)}")
        elif label in found:
            state.wrong(f"auto.{key}", f"the class {label} has a list already")
        elif not (isinstance(value, list) and value and all(isinstance(entry, str) for entry in value)):
            state.wrong(f"auto.{key}", "a list of model names, not empty")
        else:
            found[label] = tuple(value)
    return table.Auto(found, safe)


def _rule(rule: table.Rule) -> table.Rule:
    return evolve(rule, classes=tuple(table.SYNONYMS.get(word, word) for word in rule.classes))
