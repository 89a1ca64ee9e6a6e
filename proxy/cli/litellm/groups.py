"""Model groups to a table: what LiteLLM balances and falls back on becomes models, weighted profiles and alias lists.

A name of LiteLLM's stays the name that clients write:

    one deployment                      a model of that id
    several                             a profile with weights, and an alias of the name
    with fallbacks                      an alias: its own deployments, then each fallback's own
    X/* to the same at a vendor         the provider is called X
    a wildcard sent on as it stands     a pattern of the provider's `models`
    a wildcard to one model             a rule, where it catches no other name

A fallback's own fallbacks are not followed: LiteLLM's may go round in circles, which no table of ours may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from attrs import field

from proxy.cli.litellm.deployments import TEMPLATE, Deployment
from proxy.cli.litellm.report import Report
from proxy.record import define

Table = dict[str, Any]
SORTS = {"latency-based-routing": "latency", "cost-based-routing": "price"}
FREE_OF = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-"


@define
class Groups:
    """The parts of the table, as they grow. `own` is the entry that stands for a group's deployments alone."""

    report: Report
    strategy: str = "simple-shuffle"
    providers: Table = field(factory=dict)
    models: Table = field(factory=dict)
    aliases: Table = field(factory=dict)
    profiles: Table = field(factory=dict)
    rules: list[Table] = field(factory=list)
    own: dict[str, str] = field(factory=dict)
    patterns: list[str] = field(factory=list)
    _names: dict[Any, str] = field(factory=dict)  # of providers, by what makes them one
    _taken: set[str] = field(factory=set)  # names that clients write
    _refused: set[str] = field(factory=set)  # names that no provider may have

    def add(
        self, deployments: Iterable[Deployment], chains: Mapping[str, list[str]], aliases: Mapping[str, str]
    ) -> None:
        """`chains` are fallbacks by group, `aliases` groups by another name."""
        groups: dict[str, list[Deployment]] = {}
        for one in deployments:
            groups.setdefault(one.group, []).append(one)
        plain = {name: members for name, members in groups.items() if "*" not in name}
        self._taken = {*plain, *aliases}
        wild = {name: members for name, members in groups.items() if "*" in name}
        self._reserve(wild)
        for name, members in wild.items():
            self._wildcard(name, members)
        for name, members in plain.items():
            alone = len(members) == 1 and not chains.get(name) and name not in aliases
            self.own[name] = (
                self._model(members[0], name if alone else None) if len(members) == 1 else self._pool(name, members)
            )
        for name in plain:
            if name not in aliases:
                self._public(name, chains.get(name, []))
        for name in aliases:
            self._alias(name, _followed(name, aliases))

    # -- providers -------------------------------------------------------------------------------------------

    def _reserve(self, wild: Mapping[str, list[Deployment]]) -> None:
        """Names that a wildcard needs its provider to have, before another takes them."""
        for name, (first, *_) in wild.items():
            if name == first.native:
                self._refused.add(
                    name.partition("/")[0]
                )  # the table refuses a provider of that name beside the pattern
        for name, (first, *_) in wild.items():
            head, slash, rest = name.partition("/")
            if slash and rest == first.native and head not in self._refused and _is_name(head):
                self._names.setdefault(first.source, head)

    def provider(self, one: Deployment) -> str:
        """Its name; made where there is none yet."""
        name = self._names.get(one.source)
        if name is None or name not in self.providers:
            name = self._names[one.source] = name or self._fresh(_called(one))
            self.providers[name] = {"dialects": list(one.dialects), "base_url": one.base_url, "api_key": one.key}
            if one.local:
                self.providers[name]["local"] = True
            if one.headers:
                self.providers[name]["headers"] = dict(one.headers)
        made = self.providers[name]
        made["endpoints"] = list(dict.fromkeys((*made.get("endpoints", ()), *one.endpoints)))
        return name

    def _fresh(self, wanted: str) -> str:
        used = {*self.providers, *self._names.values(), *self._refused, "embedded"}
        return next(name for name in _numbered(wanted) if name not in used)

    # -- names of one model ----------------------------------------------------------------------------------

    def _model(self, one: Deployment, id: str | None = None) -> str:
        """The id of its entry. Deployments that say the same of the same model share one."""
        provider = self.provider(one)
        entry = {"provider": provider, "native": one.native, **one.fields}
        if id is None:
            for known, made in self.models.items():
                if made == entry and known not in self._taken:
                    return known
            used = {*self.models, *self._taken}
            id = next(name for name in _numbered(f"{provider}/{one.native}", "@") if name not in used)
        self.models[id] = entry
        return id

    def _pool(self, name: str, members: list[Deployment]) -> str:
        """Several deployments: drawn by weight, those of a later order only where the first ones fail."""
        first = min(one.order for one in members)
        members = sorted(members, key=lambda one: one.order)
        if any(one.weight == 0 for one in members if one.order == first) and len(members) > 1:
            self.report.changed("a weight of 0", "it is a fallback, where LiteLLM never draws it", name)
        weights: dict[str, int] = {}
        for one in members:
            id = self._model(one)
            weights[id] = weights.get(id, 0) + (one.weight if one.order == first else 0)
        if len(weights) < len(members):
            self.report.changed("deployments that are the same", "they are one candidate, of their weights' sum", name)
        if len(weights) == 1:
            return next(iter(weights))
        profile: Table = {"candidates": [{"model": id, "weight": weight} for id, weight in weights.items()]}
        if (sort := SORTS.get(self.strategy)) is not None:
            profile = {"candidates": list(weights), "sort": sort}
        plain = "".join(letter if letter in FREE_OF else "-" for letter in name)
        pool = next(
            free for free in _numbered(f"{plain}-pool") if free not in self.profiles and free not in self._taken
        )
        self.profiles[pool] = profile
        return f"profile:{pool}"

    def _public(self, name: str, chain: list[str]) -> None:
        own = self.own[name]
        entries = [own, *(entry for fallback in chain if (entry := self._fallback(name, fallback)) is not None)]
        entries = list(dict.fromkeys(entries))
        if entries != [name]:
            self.aliases[name] = entries[0] if len(entries) == 1 else entries

    def _fallback(self, name: str, fallback: str) -> str | None:
        if fallback in self.own:
            return self.own[fallback]
        if self._known(fallback):
            return fallback
        self.report.left(f"the fallback {fallback}", "no model of that name is in the table", name)
        return None

    def _alias(self, name: str, target: str) -> None:
        if name in self.own:
            self.report.changed(
                f"the group {name}", f"it is hidden by an alias of that name, as in LiteLLM, for {target}"
            )
        entry = self.aliases.get(target) or (target if target in self.models else None) or self.own.get(target)
        if entry is None and self._known(target):
            entry = target
        if entry is None:
            self.report.left(f"the alias {name}", f"no model is called {target}")
        else:
            self.aliases[name] = entry

    def _known(self, name: str) -> bool:
        """Whether a wildcard that was carried is for it. Neither a wildcard nor nothing is a name to ask for."""
        if not name or "*" in name:
            return False
        head, slash, rest = name.partition("/")
        return any(fnmatchcase(name, pattern) for pattern in self.patterns) or bool(
            slash and rest and head in self.providers
        )

    # -- wildcards -------------------------------------------------------------------------------------------

    def _wildcard(self, name: str, members: list[Deployment]) -> None:
        first = members[0]
        head, slash, rest = name.partition("/")
        if "*" not in first.native:
            self._catch(name, first)
        elif "*" in name[:-1]:
            self.report.left(f"the wildcard {name}", 'a pattern ends in its only "*"')
            return
        elif name == first.native:
            self._known_models(self.provider(first), first).setdefault("models", []).append(name)
            self.patterns.append(name)
        elif slash and rest == first.native and (self._names.get(first.source) == head):
            self._known_models(self.provider(first), first)
            if rest != "*":
                self.report.changed(f"the wildcard {name}", f"{head}/… reaches every model of the provider", "")
        else:
            self.report.left(
                f"the wildcard {name}", f"the name is sent on as it stands, and would not become {first.native}"
            )
            return
        self._further(name, first, members[1:])

    def _known_models(self, provider: str, one: Deployment) -> Table:
        made: Table = self.providers[provider]
        if (timeouts := one.fields.get("timeouts")) is not None:
            made["timeouts"] = timeouts
        for key in ("limits", "price"):
            if key in one.fields:
                self.report.left(
                    f"the {key} of the wildcard {one.group}", "they are of single models: write an entry of [models]"
                )
        return made

    def _further(self, name: str, first: Deployment, others: list[Deployment]) -> None:
        """Further deployments of a wildcard: other keys for the same place are keys of the one provider."""
        for one in others:
            if (one.vendor, one.base_url, one.headers, one.native) != (
                first.vendor,
                first.base_url,
                first.headers,
                first.native,
            ):
                self.report.left(f"a further deployment of the wildcard {name}", "a pattern leads to one provider")
                continue
            made = self.providers[self.provider(first)]
            keys = made.pop("api_keys", None) or [made.pop("api_key")]
            made["api_keys"] = list(dict.fromkeys((*keys, one.key)))
            self.report.changed(
                f"the keys of the wildcard {name}", "the first that is not resting is used, none is drawn"
            )

    def _catch(self, name: str, one: Deployment) -> None:
        """Every name of a kind goes to one model."""
        caught = [known for known in self._taken if fnmatchcase(known, name)]
        if caught:
            why = f"a rule that catches {name} would catch {caught[0]} as well: write one for the names that you mean"
            self.report.left(f"the wildcard {name}", why)
            return
        self.rules.append({"name": f"{name} goes to one model", "models": [name], "use": [self._model(one)]})
        self.patterns.append(name)


def _followed(name: str, aliases: Mapping[str, str]) -> str:
    """What an alias of an alias comes to."""
    seen = {name}
    while (name := aliases[name]) in aliases and name not in seen:
        seen.add(name)
    return name


def _numbered(wanted: str, mark: str = "-") -> Iterable[str]:
    yield wanted
    number = 2
    while True:
        yield f"{wanted}{mark}{number}"
        number += 1


def _is_name(text: str) -> bool:
    return bool(text) and text[0].isalnum() and all(letter in FREE_OF for letter in text)


def _called(one: Deployment) -> str:
    """By its vendor, or where the address is the file's own by its host."""
    if (variable := TEMPLATE.fullmatch(one.base_url)) is not None:
        words = [word for word in variable[1].lower().split("_") if word not in ("api", "base", "url", "endpoint")]
        return "-".join(words) or one.vendor
    if one.at_vendor:
        return one.vendor
    parts = urlsplit(one.base_url)
    host = (parts.hostname or one.vendor).removeprefix("www.").removeprefix("api.")
    bare = host == "localhost" or not any(letter.isalpha() for letter in host)
    name = f"{host}-{parts.port}" if bare and parts.port else host
    return name if _is_name(name) else one.vendor
