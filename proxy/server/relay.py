"""The relay: candidates in order until one answers, by the table of failures. The one place that fails over.

| error | same candidate | next |   (attributes of the error's class; see proxy.errors)
Attempts share one cap and one deadline. Retries of the same candidate have a budget per provider, so that a provider in
trouble is not asked more than it already is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import structlog
from attrs import define, field

from proxy import errors
from proxy.errors import GatewayError, UpstreamError
from proxy.metrics import Metrics
from proxy.routing.names import Candidate
from proxy.routing.plan import Plan
from proxy.routing.world import NANOS, Pick, World, worst_nanos
from proxy.secret import Secret
from proxy.server import billing, early
from proxy.server.attempt import Opening
from proxy.server.call import Call
from proxy.server.outgoing import prepare_fetching

log = structlog.get_logger()
BACKOFF = 0.1  # seconds; doubles with each try, full jitter
LONGEST_BACKOFF = 2.0
# A candidate that was not asked: for what the request says, for want of connections, of room in its model's limits, or
# of money. The last ends the chain; a failure before it tells the client more.
PASSED_OVER = (errors.Unsupported, errors.Overloaded, errors.LimitReached, errors.BudgetSpent)


@define
class Relay:
    """One per process. `dice` and `clock` are arguments so that a test can hold them."""

    dice: Callable[[], float]
    clock: Callable[[], float]
    instance: str  # this process, in the hop header
    metrics: Metrics

    async def first_answer(self, call: Call, plan: Plan) -> Opening:
        """Raises what the last failure was when nobody answers."""
        health = call.snapshot.world.health
        if plan.cooling:
            if not health.begin_probe():
                raise errors.AllCooling(
                    "Every candidate failed lately and is resting; try again later.", retry_after=plan.cooling
                )
            try:
                return await _Chain(self, call, plan, plan.chain[:1], once=True).run()
            finally:
                health.end_probe()
        return await _Chain(self, call, plan, plan.chain).run()


@define
class _Chain:
    """The attempts of one request."""

    relay: Relay
    call: Call
    plan: Plan
    picks: tuple[Pick, ...]
    once: bool = False  # everybody rests: one attempt finds out, and no more
    last: GatewayError | None = None
    risked: int = 0  # nano-USD that failed attempts may be billed, at their worst
    began: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.began = self.relay.clock()

    async def run(self) -> Opening:
        window: int | None = None  # once a window was too small, only larger ones are tried
        waiting, put_off = deque(self.picks), set[Candidate]()
        while waiting:
            pick = waiting.popleft()
            if window is not None and not (pick.info.context is not None and pick.info.context > window):
                continue
            if pick.candidate not in put_off and self._yields(pick, waiting):
                put_off.add(pick.candidate)
                waiting.append(pick)
                continue
            if not self._affords(pick) or not self._may_pay(pick):
                continue
            opening = await self._candidate(pick, alone=not waiting)
            if opening is not None:
                return opening
            if self._spent() or not self._goes_on():
                break
            if isinstance(self.last, errors.ContextTooLong):
                window = max(window or 0, pick.info.context or 0)
        raise self.last or errors.Overloaded("There was no time left for any attempt.", retry_after=1.0)

    def _yields(self, pick: Pick, others: Iterable[Pick]) -> bool:
        """Whether it came to rest since the plan was made, or is on trial by another request, while others are fit."""
        health, now = self.call.snapshot.world.health, self.relay.clock()
        if health.is_quiet(now) or not health.cooling(pick.candidate, now):
            return False
        return any(not health.cooling(other.candidate, now) for other in others)

    def _affords(self, pick: Pick) -> bool:
        """Whether another attempt stays within the request's cost cap; the first one is the price ceiling's matter."""
        cap, facts = self.call.snapshot.table.retry.cost, self.call.facts
        if cap is None or facts is None or not self.call.decision.attempts:
            return True
        worst = worst_nanos(pick.info, facts)
        return worst is not None and self.risked + worst <= cap * NANOS

    def _may_pay(self, pick: Pick) -> bool:
        """What began with the caller's own key goes on at the house's expense only where the profile says so."""
        name, table = pick.candidate.provider, self.call.snapshot.table
        if name in self.call.byok or not table.providers[name].credentials:
            return True
        if not any(attempt.byok for attempt in self.call.decision.attempts):
            return True
        profile = table.profiles.get(self.plan.profile or "")
        return profile is not None and profile.byok_fallback

    async def _candidate(self, pick: Pick, *, alone: bool) -> Opening | None:
        """All tries of one candidate; None when they failed, with `last` set."""
        tries = 0
        self.call.snapshot.world.health.asked(pick.candidate.provider)
        while True:
            tries += 1
            key = _key(self.call, pick, self.relay.clock())
            error = None
            try:
                return await self._try(pick, key)
            except UpstreamError as exc:
                error = exc
            except PASSED_OVER as exc:
                self.last = _telling(self.last, exc)
                return None
            self.last = error
            wait = self._wait(pick, error, tries, alone=alone, key=key)
            if wait is None or self.once or self._spent() or not self._affords(pick):
                return None
            await asyncio.sleep(wait)

    async def _try(self, pick: Pick, key: _Key) -> Opening:
        call, candidate = self.call, pick.candidate
        billing.reserve(call, pick, byok=key.byok)
        prepared = await prepare_fetching(call, pick, key.secret, byok=key.byok, hops=_hops(call, self.relay.instance))
        attempt = call.begin_attempt(candidate.model, candidate.provider, candidate.native)
        attempt.byok = key.byok
        health, latencies = call.snapshot.world.health, call.snapshot.world.latencies
        trial = health.begin(candidate, key.index, self.relay.clock())
        waits = latencies.waits(candidate, self.relay.clock()) if call.stream and call.operation is None else None
        in_flight = self.relay.metrics.in_flight(candidate.provider)
        in_flight.inc()
        opening = None
        try:
            opening = await early.open_or_commit(call, pick, prepared, attempt)
        except UpstreamError as error:
            attempt.outcome, attempt.detail = error.code, call.told(error)
            self._risk(pick, error)
            self._blame(pick, key, error)
            raise
        except early.AlreadyAnswered as answered:
            attempt.outcome, attempt.detail = answered.error.code, call.told(answered.error)
            self._blame(pick, key, answered.error)
            raise
        except asyncio.CancelledError:
            attempt.outcome = "client_closed"
            raise
        except GatewayError as error:
            attempt.outcome = error.code
            raise
        finally:
            attempt.duration_ms = call.elapsed_ms() - attempt.started_ms
            health.end(trial)
            if waits is not None:
                latencies.answered(candidate, waits)
            if opening is None:
                in_flight.dec()
                billing.failed(call, attempt, pick)
        opening.key_index, opening.ended = key.index, in_flight.dec
        self.relay.metrics.queued(candidate.provider, opening.reply.queued_s)
        call.decision.queue_ms = (call.decision.queue_ms or 0) + int(opening.reply.queued_s * 1000)
        self._praise(pick, key, attempt.ttfb_ms or 0)
        return opening

    def _risk(self, pick: Pick, error: UpstreamError) -> None:
        """A provider that answered with an error bills nothing; one that was late, or whose answer broke, may."""
        if isinstance(error, errors.UpstreamBroken | errors.UpstreamTimeout) and self.call.facts is not None:
            self.risked += worst_nanos(pick.info, self.call.facts) or 0

    # -- what is learnt --------------------------------------------------------------------------------------

    def _praise(self, pick: Pick, key: _Key, ttfb_ms: int) -> None:
        world, now = self.call.snapshot.world, self.relay.clock()
        world.health.succeeded(pick.candidate, key.index, now)
        if self.call.operation is None:  # how soon it draws or counts says nothing of how soon it speaks
            world.latencies.observe(pick.candidate, ttfb_ms, now, whole=not self.call.stream)

    def _blame(self, pick: Pick, key: _Key, error: UpstreamError) -> None:
        if isinstance(error, errors.CallerKeyRefused) and pick.candidate.provider in self.call.stored:
            log.error("stored_key_refused", provider=pick.candidate.provider, project=self.call.decision.project)
        if key.byok and error.cooldown == "key":
            return  # the caller's own key says nothing of ours
        health = self.call.snapshot.world.health
        cooled = health.failed(pick.candidate, key.index, error, self.relay.clock())
        fields = {"provider": pick.candidate.provider, "model": pick.candidate.model, "outcome": error.code}
        if isinstance(error, errors.UpstreamRefusedKey):
            log.error("credential_refused", credential=key.index, **fields)
        elif cooled:
            log.warning("candidate_cooling", **fields)

    # -- what is next ----------------------------------------------------------------------------------------

    def _wait(self, pick: Pick, error: UpstreamError, tries: int, *, alone: bool, key: _Key) -> float | None:
        """Seconds before the same candidate is tried again; None: not again."""
        health, now = self.call.snapshot.world.health, self.relay.clock()
        provider = pick.candidate.provider
        other_key = not key.byok and _fit_key(self.call, provider, now) not in (None, key.index)
        if error.cooldown == "key" and other_key:
            return 0.0
        left: float = self.call.snapshot.table.retry.deadline - (now - self.began)
        floor = error.retry_after or 0.0
        if floor >= left or (error.retry_after is not None and not alone):
            return None  # it names a time: beyond the deadline, or long enough for somebody else to answer
        jittered = self.relay.dice() * min(BACKOFF * (1 << tries), LONGEST_BACKOFF)
        if isinstance(error, errors.UpstreamRateLimited):
            return max(floor, BACKOFF * tries) + jittered if alone and tries < self._most_tries() else None
        allowed = {"no": 1, "once": 2, "tries": self._most_tries()}[error.same]
        if tries >= allowed or health.tripped(pick.candidate, now) or not health.may_retry(provider):
            return None
        return floor + jittered

    def _most_tries(self) -> int:
        return self.call.snapshot.table.retry.tries

    def _spent(self) -> bool:
        """Whether the cap on attempts or the deadline forbids another."""
        retry = self.call.snapshot.table.retry
        return len(self.call.decision.attempts) >= retry.attempts or self.relay.clock() - self.began >= retry.deadline

    def _goes_on(self) -> bool:
        """Whether the last failure leaves the next candidate a chance."""
        if isinstance(self.last, errors.ContentBlocked):
            profile = self.call.snapshot.table.profiles.get(self.plan.profile or "")
            return profile is not None and profile.content_policy == "next"
        # A provider whose connections are all in use says nothing of the next one's.
        return self.last is None or self.last.try_next or isinstance(self.last, errors.Overloaded | errors.LimitReached)


@define
class _Key:
    """The credential of one try: ours by its number, the caller's, or none."""

    secret: Secret | None = None
    index: int | None = None
    byok: bool = False


def _key(call: Call, pick: Pick, now: float) -> _Key:
    provider = call.snapshot.table.providers[pick.candidate.provider]
    own = call.byok.get(provider.name)
    if own is not None:
        return _Key(own, byok=True)
    if not provider.credentials:
        return _Key()
    index = _fit_key(call, provider.name, now)
    if index is None:
        health = call.snapshot.world.health
        places = range(len(provider.credentials))
        index = min(places, key=lambda place: health.key_cooling(provider.name, place, now))
    return _Key(provider.credentials[index], index)


def _fit_key(call: Call, name: str, now: float) -> int | None:
    """The first of the provider's credentials that is not cooling."""
    world: World = call.snapshot.world
    if world.health.is_quiet(now):
        return 0
    numbers: Iterator[int] = iter(range(len(world.table.providers[name].credentials)))
    return next((index for index in numbers if not world.health.key_cooling(name, index, now)), None)


def _hops(call: Call, instance: str) -> str:
    passed = call.request.headers.get("x-pointsman-hops", "")
    return f"{passed},{instance}" if passed else instance


def _telling(last: GatewayError | None, new: GatewayError) -> GatewayError:
    """Of two failures the one that tells the client more: a provider's over a candidate that could not be asked."""
    return last if isinstance(last, UpstreamError) else new
