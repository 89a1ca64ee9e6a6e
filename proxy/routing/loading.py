"""routes.toml: bytes to a checked `Table`, or every problem at once, each with its path and line.

Nothing is applied by halves: a file with one problem is refused whole. A variable that is unset or empty is no
problem: it leaves its provider unconfigured. Files named by `file:` and `credential:` are read through the caller's
function.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

import cattrs
from attrs import define, evolve, field, frozen

from proxy.routing import projects, sections, table
from proxy.routing.directive import shown
from proxy.routing.references import check_references
from proxy.routing.salvage import ROUNDS, Salvage
from proxy.routing.table import Provider, Table, is_loopback
from proxy.secret import Secret, key_bytes
from proxy.wire.forwarded import Proxies

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9-]*-")
KEY_PREFIX = re.compile(r"[A-Za-z0-9]{1,32}", re.ASCII)
LISTEN = re.compile(r"systemd|unix:/.+|(\[[0-9A-Fa-f:.]+\]|[^:\s\[\]/]+):\d{1,5}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HOST = re.compile(r"(\*\.)?[a-z0-9][a-z0-9.-]*")
PROBE_PATH = re.compile(r"/[!-\"$-~]*")  # printable ASCII without "#"
UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # what no header carries
HIGHEST_PORT = 65_535
LEAST_PAUSE = 1.0  # seconds between questions that no client asked
EMBEDDED = "embedded"
EXPOSED = (
    'can be reached from other machines, and with auth = "none" anybody there could spend: leave auth at "keys", or '
    'listen on 127.0.0.1, [::1] or "unix:/path", with an authenticating proxy in front'
)


@frozen
class Problem:
    """One thing that is wrong. `path` is dotted as in TOML; `line` is 0 where none can be told."""

    path: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.path}: {self.message}" if self.path else f"{place}{self.message}"


class TableRejected(Exception):
    """The file is not a table. `problems` holds all that is wrong with it."""

    def __init__(self, problems: Collection[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


@define
class _Loading:
    """What the steps below share while one file is read."""

    env: Mapping[str, str]
    read_file: Callable[[str], str]
    problems: list[Problem] = field(factory=list)
    warnings: list[str] = field(factory=list)

    def wrong(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))


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
    state = _Loading(env, read_file)
    salvage = Salvage(_document(raw))
    file = _structure(salvage, state)
    if file is None:
        raise TableRejected(_placed(state.problems, raw))
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
        raise TableRejected(_placed(problems, raw))
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


def _structure(salvage: Salvage, state: _Loading) -> sections.File | None:
    """The sections; broken keys are told and left out, and entries that cannot stand without them go as a whole."""
    for round_ in range(ROUNDS):
        try:
            return sections.CONVERTER.structure(salvage.document, sections.File)
        except cattrs.BaseValidationError as exc:
            told = sections.explain(exc)
        if round_ == 0:
            state.problems += [Problem(path, message) for path, message in told]
        salvage.remove(path for path, _ in told)
    return None


def _build(file: sections.File, state: _Loading, dialects: Collection[str], revision: str) -> Table:
    _check_server(file.server, state)
    _check_fetch(file.fetch, state)
    providers = {name: _provider(name, section, state, dialects) for name, section in file.providers.items()}
    _check_names(providers, state)
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


def _check_fetch(fetch: table.Fetch, state: _Loading) -> None:
    for host in fetch.hosts:
        if not HOST.fullmatch(host):
            state.wrong("fetch.hosts", f'{shown(host)} is no name such as "img.example.com" or "*.example.com"')
    for network in fetch.networks:
        try:
            ip_network(network)
        except ValueError:
            state.wrong("fetch.networks", f'{shown(network)} is no network such as "10.1.0.0/16"')


def _check_server(server: table.Server, state: _Loading) -> None:
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


def _master_key(name: str, text: str | None, state: _Loading) -> tuple[Secret | None, str]:
    """The key, or what is not set."""
    if text is None:
        return None, ""
    unset: list[str] = []
    key = _credential(f"server.{name}", text, unset, state)
    if key and key_bytes(key) is None:
        wanted = "32 bytes are needed, in base64 or as 64 hexadecimal digits: `openssl rand -base64 32` makes them"
        state.wrong(f"server.{name}", wanted)
        return None, ""
    return (Secret(key), "") if key else (None, _not_set(unset))


def _webhook(text: str | None, state: _Loading) -> Secret | None:
    """None where there is none, or its variable is not set."""
    unset: list[str] = []
    url = _interpolated(text or "", state.env, unset)
    if not url or unset:
        return None
    if not re.fullmatch(r"https?://[^\s/@]+[^\s]*", url):
        state.wrong("server.budget_webhook", "an address such as https://hooks.example.com/budget is needed")
    return Secret(url)


def is_exposed(address: str) -> bool:
    """Whether a listener there can be reached from other machines, as far as its address tells."""
    return not (address == "systemd" or address.startswith("unix:") or is_loopback(address.rpartition(":")[0]))


def _auto(lists: Mapping[str, Any], state: _Loading) -> table.Auto:
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


# -- providers ---------------------------------------------------------------------------------------------------


def _provider(name: str, section: sections.ProviderSection, state: _Loading, dialects: Collection[str]) -> Provider:
    path = f"providers.{name}"
    if not NAME.fullmatch(name):
        state.wrong(path, "letters, digits, dots, dashes and underscores only")
    spoken = section.dialects or ((section.dialect,) if section.dialect else ())
    if section.dialect and section.dialects:
        state.wrong(f"{path}.dialect", "give dialect or dialects, not both")
    if not spoken:
        state.wrong(f"{path}.dialects", f"name what it speaks: {', '.join(sorted(dialects))}")
    for dialect in spoken:
        if dialect not in dialects:
            state.wrong(f"{path}.dialects", _unknown("dialect", dialect, dialects))
    unset: list[str] = []
    base_url = _interpolated(section.base_url, state.env, unset)
    headers = {key: Secret(_interpolated(value, state.env, unset)) for key, value in section.headers.items()}
    proxy = Secret(_interpolated(section.proxy, state.env, unset)) if section.proxy else None
    embedded = name == EMBEDDED
    if not unset:
        _check_url(path, base_url, embedded, state)
    _check_headers(path, headers, state)
    if proxy and not unset:
        _check_proxy(path, proxy.reveal(), state)
    for key in ("discover", "probe"):
        pause = getattr(section, key)
        if pause is not None and pause < LEAST_PAUSE:
            state.wrong(f"{path}.{key}", '"1s" or more is needed, or "off"')
    if section.probe_path is not None and not PROBE_PATH.fullmatch(section.probe_path):
        state.wrong(f"{path}.probe_path", 'a path such as "/health" is needed, without spaces and fragment')
    for pattern in section.models:
        if "*" in pattern[:-1] or "?" in pattern or "[" in pattern:
            state.wrong(f"{path}.models", f'{pattern!r}: a pattern is exact, or ends in its only "*"')
    credentials, keyless, no_key = _credentials(path, section, embedded, state)
    return Provider(
        name=name,
        dialects=spoken,
        base_url=base_url.rstrip("/"),
        credentials=credentials,
        keyless=keyless,
        missing_key=_not_set(no_key),
        missing=_not_set([*unset, *no_key]) if unset else "",  # all of them at once
        models=section.models,
        endpoints=section.endpoints,
        local=section.local,
        enabled=section.enabled,
        embedded=embedded,
        discover=section.discover,
        probe=section.probe,
        probe_path=section.probe_path,
        connections=section.connections,
        queue=section.queue,
        ca_file=section.ca_file,
        client_cert=section.client_cert,
        client_key=section.client_key,
        proxy=proxy,
        headers=headers,
        timeouts=section.timeouts,
    )


def _interpolated(text: str, env: Mapping[str, str], unset: list[str]) -> str:
    def value(match: re.Match[str]) -> str:
        found = env.get(match[1], "").strip()
        if not found:
            unset.append(match[1])
        return found

    return VARIABLE.sub(value, text)


def _not_set(variables: list[str]) -> str:
    names = list(dict.fromkeys(variables))
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not set" if names else ""


def _check_url(path: str, url: str, embedded: bool, state: _Loading) -> None:
    if embedded:
        if url:
            state.wrong(f"{path}.base_url", "the embedded provider answers in this process: remove base_url")
        return
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        valid = valid and not re.search(r"[\s\x00-\x1f\x7f]", url)
    except ValueError:
        valid = False
    if not valid:
        state.wrong(f"{path}.base_url", "an address such as https://api.example.com/v1 is needed")
    elif "@" in parts.netloc or parts.query or parts.fragment:
        state.wrong(f"{path}.base_url", "no user name, query or fragment; a key belongs into api_key")


def _check_proxy(path: str, url: str, state: _Loading) -> None:
    """The message repeats nothing of it: a user's password may be in there."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme == "http" and parts.hostname and parts.port and parts.path in ("", "/")
        valid = valid and not (parts.query or parts.fragment or re.search(r"[\s\x00-\x1f\x7f]", url))
    except ValueError:
        valid = False
    if not valid:
        state.wrong(f"{path}.proxy", "an address such as http://proxy.example.com:3128 is needed")


def _check_headers(path: str, headers: Mapping[str, Secret], state: _Loading) -> None:
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name) or UNPRINTABLE.search(value.reveal()):
            state.wrong(f"{path}.headers.{name}", "no header has such a name or such a value")


def _credentials(
    path: str, section: sections.ProviderSection, embedded: bool, state: _Loading
) -> tuple[tuple[Secret, ...], bool, list[str]]:
    """The keys, whether none is needed, and what is not set. One key of several that is there is enough."""
    given = section.api_keys or ((section.api_key,) if section.api_key is not None else ())
    if section.api_keys and section.api_key is not None:
        state.wrong(f"{path}.api_key", "give api_key or api_keys, not both")
    if embedded or given == ("none",):
        return (), True, []
    if not given:
        state.wrong(f"{path}.api_key", 'name the key, such as "${MY_KEY}", or "none" where the provider needs none')
    keys: list[Secret] = []
    unset: list[str] = []
    for text in given:
        key = _credential(f"{path}.api_key", text, unset, state)
        if key:
            keys.append(Secret(key))
    return tuple(keys), False, [] if keys else unset


def _credential(path: str, text: str, unset: list[str], state: _Loading) -> str:
    kind, colon, rest = text.partition(":")
    if not text or (colon and kind in ("file", "credential") and not rest):
        state.wrong(path, 'name the key, such as "${MY_KEY}", "file:/path" or "credential:NAME"')
        return ""
    match kind if colon else "":
        case "credential":
            return _usable(path, _systemd_credential(path, rest, unset, state), state)
        case "file":
            return _usable(path, _key_file(path, rest, state), state)
    missing: list[str] = []
    value = _interpolated(text, state.env, missing)
    if missing:
        unset += missing
        return ""
    if not VARIABLE.search(text):
        state.warnings.append(f"{path}: a literal key in the file; ${{VARIABLE}} or file: keeps it out")
    return _usable(path, value, state)


def _key_file(path: str, name: str, state: _Loading) -> str:
    key, wrong = "", ""
    try:
        key = state.read_file(name).strip()
        wrong = "" if key else "is empty"
    except FileNotFoundError:
        wrong = "does not exist"
    except (OSError, ValueError) as exc:  # ValueError: not UTF-8, or a NUL in the name
        wrong = f"cannot be read: {type(exc).__name__}"
    if wrong:
        state.wrong(path, f"the file {wrong}")
    return key


def _systemd_credential(path: str, name: str, unset: list[str], state: _Loading) -> str:
    """Absent or empty: systemd was given none, so the provider is not configured."""
    directory, key = state.env.get("CREDENTIALS_DIRECTORY", ""), ""
    try:
        key = state.read_file(f"{directory}/{name}").strip() if directory else ""
    except FileNotFoundError:
        key = ""
    except (OSError, ValueError) as exc:
        state.wrong(path, f"the systemd credential {name} cannot be read: {type(exc).__name__}")
    if not key:
        unset.append(f"the systemd credential {name}")
    return key


def _usable(path: str, key: str, state: _Loading) -> str:
    if UNPRINTABLE.search(key) or not key.isascii():
        state.wrong(path, "the key has characters that no header carries: is it one line, and a key?")
    return key


def _check_names(providers: Mapping[str, Provider], state: _Loading) -> None:
    for provider in providers.values():
        for pattern in provider.models:
            head, slash, rest = pattern.partition("/")
            if slash and rest == "*" and head in providers and head != provider.name:
                state.wrong(
                    f"providers.{head}",
                    f"{head}/… would mean two things: {provider.name} has the pattern {pattern}; rename one",
                )


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
    return f"unknown {what} {name!r}; {hint}"


# -- places ------------------------------------------------------------------------------------------------------


def _placed(problems: Collection[Problem], raw: bytes) -> list[Problem]:
    lines = dict(_lines(raw.decode("utf-8-sig", "replace")))

    def line(problem: str) -> int:
        path = problem
        while path and path not in lines:  # one step up; each cuts something off, whatever stands in a quoted key
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        inside = (number for known, number in lines.items() if known.startswith(f"{problem}."))
        return lines.get(path) or next(inside, 0)

    placed = [Problem(p.path, p.message, p.line or line(p.path)) for p in problems]
    return sorted(placed, key=lambda p: (p.line or 1 << 30, p.path))


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Dotted path of each table header and key, with its line. Good enough for messages: it reads no multi-line
    strings."""
    section, counts = "", dict[str, int]()
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(r"\s*\[(\[)?([^\[\]]+)\]", line):
            section = _plain(header[2])
            if header[1]:
                counts[section] = counts.get(section, -1) + 1
                section += f"[{counts[section]}]"
            yield section, number
        elif key := re.match(
            r"\s*((?:\"[^\"]*\"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:\"[^\"]*\"|[A-Za-z0-9_-]+))*)\s*=", line
        ):
            yield ".".join(filter(None, (section, _plain(key[1])))), number


def _plain(dotted: str) -> str:
    pieces = re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", dotted)
    return ".".join(piece.strip("\"'") for piece in pieces)
