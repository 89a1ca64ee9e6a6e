"""A translated hop of the short way: how requests are put into the provider's words, and its answers into the client's.

As `server.outgoing` and `server.attempt` do it, for conversations of which nothing gets lost on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from proxy import ir
from proxy.dialects import Dialect, Upstream, coherence
from proxy.dialects.dialect import Voice
from proxy.wire import json_text


@frozen
class Hop:
    spoken: Dialect  # by the client
    dialect: Upstream
    target: ir.Target

    def asked(self, document: Mapping[str, Any]) -> bytes | None:
        """The body for the provider; None where its dialect cannot say all of it, or says some of it in a header.
        Raises Unsupported, InvalidRequest."""
        request = self.spoken.decode_request(document)
        coherence.check(request)
        encoded = self.dialect.encode_request(request, self.target)
        return None if encoded.dropped or encoded.headers else json_text.write(encoded.body)

    def answered(self, parsed: Any, voice: Voice) -> bytes:
        """The body for the client. Raises UpstreamBroken."""
        return json_text.write(self.spoken.encode_answer(self.dialect.decode_answer(parsed), voice))
