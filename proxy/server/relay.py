"""The relay: candidates in order until one answers, by the table of failures. The one place that fails over.

| error | same candidate | next |   (attributes of the error's class; see proxy.errors)
Attempts share one cap and one deadline. Retries of the same candidate have a budget per provider, so that a provider in
trouble is not asked more than it already is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog
from attrs import field

from proxy import errors
from proxy.errors import GatewayError, UpstreamError
from proxy.metrics import Metrics
from proxy.record import define
from proxy.routing.plan import Plan
from proxy.routing.world import NANOS, Pick, worst_nanos
from proxy.server import billing, credentials, early
from proxy.server.attempt import Opening
from proxy.server.call import Call
from proxy.server.credentials import Credential
from proxy.server.outgoing import prepare, prepare_fetched
from proxy.server.watchdog import Agenda

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
    agenda: Agenda = field(factory=Agenda.of_running_loop)  # of attempts under way

    def first_answer(self, call: Call, plan: Plan) -> Coroutine[Any, Any, Opening]:
        """Raises what the last failure was when nobody answers."""
        if plan.cooling:
            return self._probed(call, plan)
        under_way = 0.0 if call.begun is None else self.agenda.now() - call.begun.began
        return _Chain(self, call, plan, plan.chain, self.clock() - under_way).run()

    async def _probed(self, call: Call, plan: Plan) -> Opening:
        """Where everybody rests: one attempt, unless enough of them are under way."""
        health = call.snapshot.world.health
        if not health.begin_probe():
            raise errors.AllCooling(
                "Every candidate failed lately and is resting; try again later.", retry_after=plan.cooling
            )
        try:
            return await _Chain(self, call, plan, plan.chain[:1], self.clock(), once=True).run()
        finally:
            health.end_probe()


@define
class _Chain:
    """The attempts of one request."""

    relay: Relay
    call: Call
    plan: Plan
    picks: tuple[Pick, ...]
    began: float
    once: bool = False  # everybody rests: one attempt finds out, and no more
    last: GatewayError | None = None
    risked: int = 0  # nano-USD that failed attempts may be billed, at their worst

    async def run(self) -> Opening:
        window: int | None = None  # once a window was too small, only larger ones are tried
        health, attempts = self.call.snapshot.world.health, self.call.decision.attempts
        waiting = list(self.picks)
        put_off: list[Pick] = []
        while waiting:
            pick = waiting.pop(0)
            if window is not None and not (pick.info.context is not None and pick.info.context > window):
                continue
            now = self.relay.clock()
            under_way = self.call.begun is not None
            if not (under_way or health.is_quiet(now)) and pick not in put_off and self._yields(pick, waiting, now):
                put_off.append(pick)
                waiting.append(pick)
                continue
            if attempts and not (self._affords(pick) and self._may_pay(pick)):
                continue
            opening = await self._candidate(pick, alone=not waiting)
            if opening is not None:
                return opening
            if self._spent() or not self._goes_on():
                break
            if isinstance(self.last, errors.ContextTooLong):
                window = max(window or 0, pick.info.context or 0)
        raise self.last or errors.Overloaded("There was no time left for any attempt.", retry_after=1.0)

    def _yields(self, pick: Pick, others: Iterable[Pick], now: float) -> bool:
        """Whether it came to rest since the plan was made, or is on trial by another request, while others are fit."""
        health = self.call.snapshot.world.health
        return bool(health.cooling(pick.candidate, now)) and any(
            not health.cooling(other.candidate, now) for other in others
        )

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
        if not any(attempt.byok for attempt in self.call.decision.attempts):
            return True
        if name in self.call.byok or not table.providers[name].credentials:
            return True
        profile = table.profiles.get(self.plan.profile or "")
        return profile is not None and profile.byok_fallback

    async def _candidate(self, pick: Pick, *, alone: bool) -> Opening | None:
        """All tries of one candidate; None when they failed, with `last` set."""
        tries = 0
        self.call.snapshot.world.health.asked(pick.candidate.provider)
        while True:
            tries += 1
            now = self.relay.clock()
            begun = self.call.begun
            key = begun.credential if begun is not None else credentials.choose(self.call, pick, now)
            error = None
            try:
                return await self._try(pick, key, now)
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

    async def _try(self, pick: Pick, key: Credential, now: float) -> Opening:
        call, relay, candidate = self.call, self.relay, pick.candidate
        begun = call.begun
        if begun is None:
            billing.reserve(call, pick, byok=key.apart)
        if begun is not None and begun.prepared is not None:
            prepared = begun.prepared
        else:
            hops = f"{call.visitor.hops},{relay.instance}" if call.visitor.hops else relay.instance
            try:
                prepared = prepare(call, pick, key, hops)
            except errors.Unsupported as refused:
                prepared, now = await prepare_fetched(call, pick, key, hops, refused), relay.clock()
        attempt = call.begin_attempt(candidate, byok=key.apart)
        health, latencies = call.snapshot.world.health, call.snapshot.world.latencies
        trial = health.begin(candidate, key.index, now)
        line = latencies.waits(candidate, call, now) if call.stream and call.operation is None else None
        in_flight = relay.metrics.in_flight(candidate.provider)
        in_flight.value += 1
        opening = None
        try:
            opening = await early.open_or_commit(call, pick, prepared, attempt, relay.agenda)
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
            attempt.outcome = "client_closed" if call.cut is None else call.cut.code
            raise
        except GatewayError as error:
            attempt.outcome = error.code
            raise
        finally:
            if trial:
                health.end(trial)
            if line is not None:
                del line[call]
            if opening is None:
                attempt.duration_ms = call.elapsed_ms() - attempt.started_ms
                in_flight.value -= 1
                billing.failed(call, attempt, pick)
        self._praise(pick, key, opening)
        opening.in_flight = in_flight
        return opening

    def _risk(self, pick: Pick, error: UpstreamError) -> None:
        """A provider that answered with an error bills nothing; one that was late, or whose answer broke, may."""
        if isinstance(error, errors.UpstreamBroken | errors.UpstreamTimeout) and self.call.facts is not None:
            self.risked += worst_nanos(pick.info, self.call.facts) or 0

    # -- what is learnt --------------------------------------------------------------------------------------

    def _praise(self, pick: Pick, key: Credential, opening: Opening) -> None:
        call, world, queued_s, now = self.call, self.call.snapshot.world, opening.reply.queued_s, self.relay.clock()
        opening.credential = key
        self.relay.metrics.queued(pick.candidate.provider, queued_s)
        call.decision.queue_ms = (call.decision.queue_ms or 0) + int(queued_s * 1000)
        world.health.succeeded(pick.candidate, key.index, now)
        if call.operation is None:  # how soon it draws or counts says nothing of how soon it speaks
            world.latencies.observe(pick.candidate, opening.attempt.ttfb_ms or 0, now, whole=not call.stream)

    def _blame(self, pick: Pick, key: Credential, error: UpstreamError) -> None:
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

    def _wait(self, pick: Pick, error: UpstreamError, tries: int, *, alone: bool, key: Credential) -> float | None:
        """Seconds before the same candidate is tried again; None: not again."""
        health, now = self.call.snapshot.world.health, self.relay.clock()
        provider = pick.candidate.provider
        other_key = not key.byok and credentials.fit(self.call, provider, now) not in (None, key.index)
        if error.cooldown == "key" and other_key:
            return 0.0
        left: float = self.call.snapshot.table.retry.deadline - (now - self.began)
        floor = error.retry_after or 0.0
        if floor >= left or (error.retry_after is not None and not alone):
            return None  # it names a time: beyond the deadline, or long enough for somebody else to answer
        jittered = self.relay.dice() * min(BACKOFF * (1 << tries), LONGEST_BACKOFF)
        if isinstance(error, errors.UpstreamRateLimited):
            wait = max(floor, BACKOFF * tries) + jittered
            return wait if alone and tries < self._most_tries() and wait < left else None
        wait, allowed = floor + jittered, {"no": 1, "once": 2, "tries": self._most_tries()}[error.same]
        if wait >= left or tries >= allowed or health.tripped(pick.candidate, now) or not health.may_retry(provider):
            return None
        return wait

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


def _telling(last: GatewayError | None, new: GatewayError) -> GatewayError:
    """Of two failures the one that tells the client more: a provider's over a candidate that could not be asked."""
    return last if isinstance(last, UpstreamError) else new
