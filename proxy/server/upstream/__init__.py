"""Sending to a provider: one small interface, and its implementations."""

from proxy.server.upstream.embedded import EmbeddedUpstream
from proxy.server.upstream.exchange import Outgoing, Reply, Upstream
from proxy.server.upstream.plain import PlainUpstream, read_up_to
from proxy.server.upstream.session import LeanUpstream

__all__ = ["EmbeddedUpstream", "LeanUpstream", "Outgoing", "PlainUpstream", "Reply", "Upstream", "read_up_to"]
