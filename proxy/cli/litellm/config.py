"""LiteLLM's config.yaml: the file, those that it includes, and its credentials put where they are referred to.

https://docs.litellm.ai/docs/proxy/configs. PyYAML's safe loader builds plain values and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from proxy.cli.litellm.report import Report

DEEPEST = 8  # files that include files
Read = Callable[[str], bytes]


class NoConfig(Exception):
    """The file is no configuration of LiteLLM's. The text says why, and repeats nothing of it but names."""


def read(name: str, read_file: Read, report: Report) -> dict[str, Any]:
    """Raises NoConfig."""
    config = _included(name, read_file, 0)
    credentials = {
        str(entry.get("credential_name")): mapping(entry.get("credential_values"))
        for entry in listed(config.pop("credential_list", None))
    }
    for entry in listed(config.get("model_list")):
        parameters = mapping(entry.get("litellm_params"))
        if (wanted := parameters.pop("litellm_credential_name", None)) is not None:
            if str(wanted) not in credentials:
                report.left(f"litellm_credential_name {wanted}", "credential_list has none of that name")
            entry["litellm_params"] = {**credentials.get(str(wanted), {}), **parameters}
    return config


def mapping(value: Any) -> dict[str, Any]:
    """As LiteLLM takes it: what is missing or null is nothing."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def listed(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _included(name: str, read_file: Read, depth: int) -> dict[str, Any]:
    """A list of a file that is included goes behind one's own, a mapping's members into it, and all else over it."""
    config = _document(name, read_file)
    if depth == 0 and not any(key in config for key in ("model_list", "include", "router_settings")):
        raise NoConfig(f"{name}: there is no model_list in it: is it LiteLLM's config.yaml?")
    included = config.pop("include", None) or []
    if depth == DEEPEST and included:
        raise NoConfig(f"{name}: includes files more than {DEEPEST} deep")
    for other in included if isinstance(included, list) else [included]:
        for key, value in _included(str(other), read_file, depth + 1).items():
            own = config.get(key)
            if isinstance(own, list) and isinstance(value, list):
                config[key] = own + value
            elif isinstance(own, dict) and isinstance(value, dict):
                config[key] = {**own, **value}
            else:
                config[key] = value
    return config


def _document(name: str, read_file: Read) -> dict[str, Any]:
    try:
        document = yaml.safe_load(read_file(name))
    except OSError as exc:
        raise NoConfig(f"{name}: cannot be read: {exc.strerror or type(exc).__name__}") from exc
    except yaml.MarkedYAMLError as exc:  # its own text shows the line, and a key may stand there
        line = f":{exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise NoConfig(f"{name}{line}: not YAML: {exc.problem or exc.context}") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise NoConfig(f"{name}: not YAML: {type(exc).__name__}") from exc
    if not isinstance(document, dict):
        raise NoConfig(f"{name}: is no mapping: a config.yaml of LiteLLM's begins with model_list:")
    return {str(key): value for key, value in document.items()}
