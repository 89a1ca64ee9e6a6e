"""The head of a request as it stands on the wire."""

from __future__ import annotations

import re

from yarl import URL

from proxy.errors import UpstreamBroken
from proxy.server.upstream.exchange import Outgoing

_UNSAFE = re.compile(r"[\r\n\0]")


def rendered(url: URL, outgoing: Outgoing) -> bytes:
    """Up to the digits of its length, where it has a body. Raises UpstreamBroken for what would be another request."""
    target = url.raw_path_qs
    if not (target.isascii() and target.isprintable()) or " " in target:
        raise UpstreamBroken("The path of the request is none.")
    lines = [f"{outgoing.method} {target} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
    lines += (f"{name}: {value}" for name, value in outgoing.headers)
    if any(_UNSAFE.search(line) for line in lines):
        raise UpstreamBroken("A header of the request holds a line end.")
    text = "\r\n".join((*lines, "Content-Length: " if outgoing.method == "POST" else ""))
    return text.encode("utf-8", "surrogateescape")
