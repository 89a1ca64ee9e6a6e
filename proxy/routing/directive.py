"""The grammar of one entry of `model` or `models`, and of its suffixes.

    model  := concrete | alias | "auto" | "industry:" TAG | "strategy:" NAME | "profile:" NAME | provider "/" native-id
    suffix := "sort:price|latency|throughput|quality" | "max_price:USD", parted by ";" "," or spaces; ":floor" ":nitro"

A colon is legal inside real ids (`qwen2.5-coder:7b`): a tail is a suffix only where the whole is no known id and the
tail is in the closed list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from proxy.errors import InvalidRequest
from proxy.record import frozen

SORTS = ("price", "latency", "throughput", "quality")
STRATEGIES = ("cost", "quality", "latency", "local")
DIRECTIVES = ("industry", "strategy", "profile")
VARIANTS = {"floor": "price", "nitro": "throughput"}
LONGEST = 256  # characters of one entry; no id that we know comes near
_GAP = re.compile(r"[;,\s]+")


@frozen
class Entry:
    """One entry, taken apart. `kind` is "auto", "industry", "strategy", "profile", or "name" for all the rest."""

    text: str  # as the client wrote it
    kind: str
    name: str
    sort: str | None = None
    max_price: Decimal | None = None


def parse(text: str, known: Callable[[str], bool], *, param: str = "model") -> Entry:
    """Raises InvalidRequest for a suffix with a bad value; an unknown name is not this function's to judge."""
    if known(text):
        return Entry(text, "name", text)
    base, sort, max_price = _suffixes(text, known, param)
    kind, name = _kind(base)
    return Entry(text, kind, name, sort, max_price)


def _kind(base: str) -> tuple[str, str]:
    if base == "auto":
        return "auto", "auto"
    head, colon, rest = base.partition(":")
    if colon and head in DIRECTIVES:
        return head, rest
    return "name", base


def _suffixes(text: str, known: Callable[[str], bool], param: str) -> tuple[str, str | None, Decimal | None]:
    base, *tails = _GAP.split(text.strip())
    sort: str | None = None
    max_price: Decimal | None = None
    for tail in tails:
        name, _, value = tail.partition(":")
        if name == "sort":
            sort = parse_sort(value, param)
        elif name == "max_price":
            max_price = parse_usd(value, param)
        elif tail:
            return text, None, None  # not in the closed list: then it is part of the name
    while not known(base):
        head, _, variant = base.rpartition(":")
        if not head or head in DIRECTIVES or variant not in VARIANTS:  # profile:floor is the profile of that name
            break
        base, sort = head, sort or VARIANTS[variant]
    return base, sort, max_price


def parse_sort(value: object, param: str) -> str:
    if value not in SORTS:
        raise InvalidRequest(f"{_of(param, 'sort')} is one of {', '.join(SORTS)}, not {shown(value)}.", param=param)
    return str(value)


def parse_usd(value: object, param: str) -> Decimal:
    """A price in USD, zero or more, from a JSON number or from text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidRequest(f"{_of(param, 'max_price')} is a number of USD, not {shown(value)}.", param=param)
    try:
        price = Decimal(str(value))
    except InvalidOperation:
        price = Decimal("NaN")
    if not price.is_finite() or price < 0 or price > 1_000_000:
        raise InvalidRequest(
            f"{_of(param, 'max_price')} is a number of USD, zero or more, not {shown(value)}.", param=param
        )
    return price


def _of(param: str, name: str) -> str:
    """A suffix stands inside of `model`; elsewhere the member or header is named for it already."""
    return f"{param}: {name}" if param == "model" else param


def shown(value: object) -> str:
    """A client's value in one of our messages: escaped and short, in JSON's words where it is one."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = "null" if value is None else repr(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
