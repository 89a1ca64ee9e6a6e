"""A provider's block of routes.toml, checked, with its credentials in hand."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from urllib.parse import urlsplit

from proxy.routing import sections
from proxy.routing.credentials import UNPRINTABLE, credential, interpolated, not_set
from proxy.routing.problems import Loading
from proxy.routing.table import Provider
from proxy.secret import Secret

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
PROBE_PATH = re.compile(r"/[!-\"$-~]*")  # printable ASCII without "#"
LEAST_PAUSE = 1.0  # seconds between questions that no client asked
EMBEDDED = "embedded"


def provider_of(name: str, section: sections.ProviderSection, state: Loading, dialects: Collection[str]) -> Provider:
    """What is wrong with it is told in `state`; the provider that comes back is then of no use."""
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
    base_url = interpolated(section.base_url, state.env, unset)
    headers = {key: Secret(interpolated(value, state.env, unset)) for key, value in section.headers.items()}
    proxy = Secret(interpolated(section.proxy, state.env, unset)) if section.proxy else None
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
        missing_key=not_set(no_key),
        missing=not_set([*unset, *no_key]) if unset else "",  # all of them at once
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


def _check_url(path: str, url: str, embedded: bool, state: Loading) -> None:
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


def _check_proxy(path: str, url: str, state: Loading) -> None:
    """The message repeats nothing of it: a user's password may be in there."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme == "http" and parts.hostname and parts.port and parts.path in ("", "/")
        valid = valid and not (parts.query or parts.fragment or re.search(r"[\s\x00-\x1f\x7f]", url))
    except ValueError:
        valid = False
    if not valid:
        state.wrong(f"{path}.proxy", "an address such as http://proxy.example.com:3128 is needed")


def _check_headers(path: str, headers: Mapping[str, Secret], state: Loading) -> None:
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name) or UNPRINTABLE.search(value.reveal()):
            state.wrong(f"{path}.headers.{name}", "no header has such a name or such a value")


def _credentials(
    path: str, section: sections.ProviderSection, embedded: bool, state: Loading
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
    lacking: list[tuple[str, str]] = []
    for number, text in enumerate(given):
        place, missing = f"{path}.api_keys[{number}]" if section.api_keys else f"{path}.api_key", list[str]()
        key = credential(place, text, missing, state)
        if key:
            keys.append(Secret(key))
        elif missing:
            unset += missing
            lacking.append((place, not_set(missing)))
    if keys:
        state.warnings += [f"{place}: {why}; the provider is asked with the others" for place, why in lacking]
    return tuple(keys), False, [] if keys else unset


def check_names(providers: Mapping[str, Provider], state: Loading) -> None:
    """No name of a model may mean two providers."""
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
