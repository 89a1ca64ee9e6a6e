"""Where aiohttp's parser stands: from where on a connection can come back from it.

It certainly stands between two requests where it was given each head up to its blank line, told of one request for it,
and was given as many bytes more as its Content-Length says. Behind a chunked body, an upgrade or an error nobody else
knows where the next request begins.
"""

from __future__ import annotations

from typing import Any

from aiohttp.http_parser import RawRequestMessage

from proxy.wire.request_head import END


class Place:
    """Where a parser stands that is given what `cut` gives."""

    __slots__ = ("_end", "_needs", "_odd", "head_ended")

    def __init__(self) -> None:
        self._odd = False  # a line of the head ends otherwise than by CRLF, or was cut there
        self._end = b""  # of a head that is still incomplete
        self._needs = 0  # bytes of the body
        self.head_ended = False  # by the piece that was cut

    def between(self) -> bool:
        """Two requests."""
        return not (self._end or self._needs)

    def cut(self, data: bytes) -> tuple[bytes, bytes]:
        """What belongs to a head or a body, and the rest."""
        self.head_ended = False
        if self._needs:
            size = min(len(data), self._needs)
            self._needs -= size
            return data[:size], data[size:]
        kept = len(self._end)
        looked = self._end + data
        at = looked.find(END)
        self._odd = self._odd or b"\n" in looked[:at].replace(b"\r\n", b"")
        if at < 0:
            self._end = looked[1 - len(END) :]
            return data, b""
        self._end, self.head_ended = b"", True
        size = at + len(END) - kept
        return data[:size], data[size:]

    def follows(self, message: RawRequestMessage | Any) -> bool:
        """Whether it is known what comes behind that head, of which the parser told."""
        if self._odd or not isinstance(message, RawRequestMessage) or message.chunked or changes(message):
            return False
        if message.method == "CONNECT" or "Transfer-Encoding" in message.headers:
            return False
        self._needs = int(message.headers.get("Content-Length", "0"))
        return True


def changes(message: RawRequestMessage) -> bool:
    """Whether aiohttp takes what comes behind for another protocol's, until the answer says otherwise. Of any other
    upgrade it knows nothing, as little as this gateway does."""
    return bool(message.upgrade) and message.headers.get("Upgrade", "").lower() == "websocket"
