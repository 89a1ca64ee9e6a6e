"""What a routes.toml takes from elsewhere: variables, key files, systemd's credentials.

A variable that is unset or empty, and a credential that systemd was not given, are no problem here: they are told
apart, and leave their provider unconfigured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.routing.problems import Loading

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # what no header carries


def interpolated(text: str, env: Mapping[str, str], unset: list[str]) -> str:
    """`text` with each ${VARIABLE} replaced; the names of those that are not set are added to `unset`."""

    def value(match: re.Match[str]) -> str:
        found = env.get(match[1], "").strip()
        if not found:
            unset.append(match[1])
        return found

    return VARIABLE.sub(value, text)


def not_set(variables: list[str]) -> str:
    """The sentence for what is missing; empty where nothing is."""
    names = list(dict.fromkeys(variables))
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not set" if names else ""


def credential(path: str, text: str, unset: list[str], state: Loading) -> str:
    """The key that `text` names or is; empty where it is not there, which `unset` or a problem then tells."""
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
    value = interpolated(text, state.env, missing)
    if missing:
        unset += missing
        return ""
    if not VARIABLE.search(text):
        state.warnings.append(f"{path}: a literal key in the file; ${{VARIABLE}} or file: keeps it out")
    return _usable(path, value, state)


def _key_file(path: str, name: str, state: Loading) -> str:
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


def _systemd_credential(path: str, name: str, unset: list[str], state: Loading) -> str:
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


def _usable(path: str, key: str, state: Loading) -> str:
    if UNPRINTABLE.search(key) or not key.isascii():
        state.wrong(path, "the key has characters that no header carries: is it one line, and a key?")
    return key
