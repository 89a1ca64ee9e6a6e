"""The two kinds of stream, from a provider's bytes to the client's: `Passthrough` and `Translation`.

Both are fed chunks cut anywhere and give the bytes that may leave now. Until the first content-bearing event they give
nothing and hold what they have: `committed` says when that is over. An error among the held events is raised, since
it is a failed attempt like any other; an error after the commit is part of the bytes, and `failure` says so.

    feed(chunk) -> bytes   raises UpstreamError before the commit, UpstreamBroken also after it
    close() -> bytes       the body has ended; raises UpstreamBroken where the stream has not
    fail(error) -> bytes   what close() had left to say, the in-band error and the end, in the client's dialect
    done                   nothing more will leave: the terminal event has been seen, or a translation's error
    farewell               but for one frame that some providers send behind the end, if it comes at once
"""

from proxy.streams.by_heart import learnt
from proxy.streams.familiar import AtOnce, Familiar, at_once, familiar, says
from proxy.streams.passthrough import Passthrough
from proxy.streams.recital import Recital
from proxy.streams.rote import recital_of
from proxy.streams.runs import Retelling
from proxy.streams.stream import HELD_BYTES, HELD_EVENTS, Stream
from proxy.streams.translation import Translation
from proxy.streams.unjudged import Unjudged
from proxy.streams.usual import Opening as UsualOpening
from proxy.streams.usual import Usual
from proxy.streams.whole import events_of

__all__ = [
    "HELD_BYTES", "HELD_EVENTS", "AtOnce", "Familiar", "Passthrough", "Recital", "Retelling", "Stream", "Translation",
    "Unjudged", "Usual", "UsualOpening", "at_once", "events_of", "familiar", "learnt", "recital_of", "says",
]  # fmt: skip
