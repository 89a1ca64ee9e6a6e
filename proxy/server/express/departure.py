"""How a ride departs: what is found out before anything is done about a request, what is taken for it, and the provider
asked; and what is given back where that comes to nothing.

What need not be done before the provider is asked is done after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import GatewayError
from proxy.routing.facts import CHARS_PER_TOKEN, estimated_tokens
from proxy.routing.table import OFF
from proxy.server import intake
from proxy.server.billing import LEASE_MS
from proxy.server.express.course import Course
from proxy.server.express.setting import Document, Found, Setting, Talk, said
from proxy.server.express.strangers import NOT_YET
from proxy.server.identity import request_id
from proxy.server.upstream.session import Place
from proxy.wire import splice
from proxy.wire.splice import Parts

if TYPE_CHECKING:
    from proxy.routing.health import Health
    from proxy.server.express.ride import Ride
    from proxy.server.express.track import Track

NOTHING_TAKEN, HAS_LEAVE, ASKED, BEGUN = range(4)  # how far one got; leave is of limits, budgets and the process
LATE = "The provider did not answer in time."  # as the watchdog says it


def departs(ride: Ride) -> bool:
    """Asks the provider, if nothing is in the way; else nothing was done."""
    gateway, track = ride.gateway, ride.track
    found, health = ride.found, ride.snapshot.world.health
    assert found is not None
    now = gateway.clock()
    _, talk, known, _, written = found
    chars, media, _, _, turns = talk
    text, size = ride.body, 0
    sent: Parts | None = None
    if isinstance(known, Setting):
        if track.hop is None:
            before, behind = known.lead
            sent, size = (before, written, behind), known.led + len(written)
    elif known.light is not None:
        text = known.light.text
    assert isinstance(text, bytes)  # in parts are light bodies alone
    if media or not text.isascii():
        tokens = estimated_tokens(chars, 0 if text.isascii() else intake.wide(text), media)
    else:
        tokens = -(-chars // CHARS_PER_TOKEN)
    ride.tokens = tokens
    if track.window is not None and tokens + track.most > track.window:
        return False
    if not health.is_calm(now) and not _is_well(track, health, now):
        return False
    goes_on = (turns > 1 or track.session is not None) and track.lifetime != OFF
    if goes_on and not _is_at_home(ride, talk, now):
        return False
    if sent is None:
        if (sent := _put(ride, found, text)) is None:
            return False
        size = sum(map(len, sent))
    if (place := track.upstream.place()) is None:
        return False
    try:
        if goes := ride._has_leave(now):
            ride.stage = HAS_LEAVE
            ride.reply = track.upstream.asked(place, track.head, size, sent)
            ride.stage = ASKED
            ride.sent, ride.request.document = sent, None
            _begun(ride)
            if track.streamed is None:
                ride.reply.lend(ride)
                if not goes_on:  # no pin could be looked for
                    ride.recognizes(talk)
            else:
                ride.course = course = Course.of(ride, place[1], now)
                ride.reply.lend(course)
                if ride.call is not None:
                    ride.call.course = course
                if not goes_on:
                    ride.conversation = NOT_YET
                    gateway.express.strangers.add(ride, talk)
    except BaseException:
        _stays(ride, place)
        raise
    if not goes:
        track.upstream.leaves(place)
    return goes


def _is_well(track: Track, health: Health, now: float) -> bool:
    """Whether nobody rests, and its candidate is not on trial, where somebody failed lately."""
    return health.is_quiet(now) and not health.on_trial(track.candidate, track.credential.index)


def _stays(ride: Ride, place: Place) -> None:
    """A fault of ours ended the departure: gives back what was taken up to there. The connection may have been asked
    something, and serves no more."""
    gateway, track, stage = ride.gateway, ride.track, ride.stage
    try:
        if stage >= ASKED:
            if (course := ride.off_course()) is not None:
                course.expire(LATE)  # nobody is told so
            else:
                ride.reply.close()
        else:
            track.upstream.drops(place)
    finally:
        gateway.relay.agenda.strike(ride)
        if stage == BEGUN:
            track.in_flight.value -= 1
        if ride.call is None and stage >= HAS_LEAVE:  # else the way of all has what was taken, or nothing was
            try:
                ride.permit.settle(0, 0, gateway.clock())
            finally:
                if stage == BEGUN:
                    gateway.ended(ride, ride.snapshot, ride.size, True)
                    if track.leased is not None:  # no row will end that
                        ride.lease(track.leased, 0, ride.at_ms - LEASE_MS)
                else:
                    gateway.turnstile.alight(ride.size)


def _put(ride: Ride, found: Found, text: bytes) -> Parts | None:
    """The body for the provider, `text` being what of the client's was read; None where more than a look is needed."""
    track = ride.track
    _, _, known, _, _ = found
    if track.hop is not None:
        try:
            asked = track.hop.asked(said(found), known.beside)
        except (ValueError, GatewayError):
            return None  # for the way of all to tell
        return None if asked is None else (asked,)
    assert isinstance(known, Document)
    asks = track.streamed is not None and track.streamed.asked_usage
    if known.light is not None:
        return splice.renamed_around(known.light, known.members, track.native, include_usage=asks)
    if known.members is not None:
        return splice.rewritten(text, known.members, model=track.native, include_usage=asks)
    renamed = splice.renamed(text, track.native)
    if asks and renamed is not None:
        renamed = splice.asking_usage(renamed)
    return None if renamed is None else (renamed,)


def _is_at_home(ride: Ride, talk: Talk, now: float) -> bool:
    """Whether no pin of the conversation leads elsewhere."""
    track, conversation = ride.track, ride.recognizes(talk)
    if conversation is not None:
        ride.pinned = ride.snapshot.world.affinity.pinned(conversation, now, track.lifetime)
    return ride.pinned is None or ride.pinned == track.candidate


def _begun(ride: Ride) -> None:
    gateway, track = ride.gateway, ride.track
    call, at_ms = ride.call, ride.at_ms
    agenda = gateway.relay.agenda
    began = agenda.now()
    if track.streamed is None:
        agenda.put(ride, began + track.due)
    if call is None:
        identity = request_id(at_ms)
        ride.snapshot.users += 1
        gateway.calls.add(ride)
    else:
        identity = call.request_id
        ride.started_ms, at_ms = call.elapsed_ms(), int(gateway.now() * 1000)
    track.in_flight.value += 1
    ride.request_id = identity
    ride.began = began
    ride.stage = BEGUN
    if (leased := track.leased) is not None:
        key_id, project = leased
        gateway.ledger.lease((identity, key_id, project, ride.nanos, at_ms + LEASE_MS))
