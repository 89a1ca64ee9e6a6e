"""A provider's name for a model as a part of a URL's path. Clients may write any name: what they write must not lead to
another place of the provider's, where the house's key would open other doors."""

from __future__ import annotations

from urllib.parse import quote

from proxy.errors import Unsupported

NOWHERE = ("", ".", "..")  # segments that mean another place than the one they stand in


def in_path(name: str) -> str:
    """Percent-encoded but for what names have: slashes, colons, `@`. Raises Unsupported for a name that would leave its
    place in the path."""
    if any(part in NOWHERE for part in name.replace("\\", "/").split("/")):
        raise Unsupported("The model's name leads out of its place in the provider's path.", param="model")
    return quote(name, safe="/:@", errors="surrogatepass")
