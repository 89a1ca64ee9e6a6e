"""LiteLLM's config.yaml to a table: what can be said in routes.toml, and a list of what cannot.

The table passes `pointsman check`, or there is none. Keys stay in the environment: no value that may be one is copied.
"""

from __future__ import annotations

from proxy.cli.litellm import toml
from proxy.cli.litellm.config import NoConfig, Read, listed, read
from proxy.cli.litellm.deployments import deployment
from proxy.cli.litellm.groups import Groups
from proxy.cli.litellm.report import Report, printable
from proxy.cli.litellm.settings import settings
from proxy.record import frozen

__all__ = ["Imported", "NoConfig", "import_config"]


@frozen
class Imported:
    text: str
    lost: tuple[str, ...]  # a line each
    differing: tuple[str, ...]
    variables: tuple[str, ...]


def import_config(name: str, read_file: Read) -> Imported:
    """Raises NoConfig, also where no model of the file can be served."""
    report = Report()
    config = read(name, read_file, report)
    wanted = settings(config, report)
    keys: dict[str, str] = {}
    entries = listed(config.get("model_list"))
    found = [one for entry in entries if (one := deployment(entry, report, keys)) is not None]
    groups = Groups(report, wanted.strategy)
    groups.add(found, {one.group: wanted.chain(one.group) for one in found}, wanted.aliases)
    if not groups.providers:
        raise NoConfig(
            "\n".join((f"{name}: none of its models can be served:", *(f"  {line}" for line in report.lost)))
        )
    sections = dict(wanted.sections)
    projects = sections.pop("projects", {})
    document = {
        **sections,
        "providers": groups.providers,
        "models": {id: _short(id, entry) for id, entry in groups.models.items()},
        "aliases": groups.aliases,
        "profiles": groups.profiles,
        "projects": projects,
        "rules": groups.rules,
    }
    text = toml.write(document)
    lost, differing = tuple(report.lost), tuple(report.differing)
    variables = tuple(dict.fromkeys(toml.VARIABLE.findall(text)))
    return Imported(f"{_head(name, lost, differing)}\n{text}", lost, differing, variables)


def _short(id: str, entry: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in entry.items() if (key, value) != ("native", id)}


def _head(name: str, lost: tuple[str, ...], differing: tuple[str, ...]) -> str:
    lines = [
        printable(f"From LiteLLM's {name}, by `pointsman import litellm`. docs/from-litellm.md says what means what.")
    ]
    for title, notes in (("Carried over, with a difference:", differing), ("Not carried over:", lost)):
        if notes:
            lines += ["", title, *(f"  {note}" for note in notes)]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
