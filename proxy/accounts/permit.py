"""Leave to make one request: what it has reserved of budgets and limits, from its admission to its one settlement."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from proxy.accounts.books import ANYBODY, Standing
from proxy.accounts.budget import NO_ALERTS, Account, Alert, usd
from proxy.accounts.limits import Meter
from proxy.accounts.periods import NEVER
from proxy.errors import BudgetSpent, LimitReached
from proxy.record import define


@define(eq=False)
class Permit:
    """Taken step by step: `enter`, `take_tokens`, `cover` for each attempt; given back whole by `settle`. Every step
    takes all that it asks for or nothing. What the caller may is in its `standing`."""

    standing: Standing = ANYBODY
    at_ms: int = 0  # when the request began
    entered: bool = False
    settled: bool = False
    tokens: int = 0  # reserved of each meter
    nanos: int = 0  # reserved of each account
    model: Meter | None = None  # of the candidate that is tried just now
    model_tokens: int = 0  # reserved of that one
    asked: tuple[int, int] = (0, 0)  # tokens to read, and to write at most

    @property
    def key_id(self) -> str | None:
        return self.standing.key_id

    @property
    def project(self) -> str | None:
        return self.standing.project

    # -- limits ----------------------------------------------------------------------------------------------

    def enter(self, now: float) -> None:
        """Raises LimitReached where too many requests came or run."""
        meters = self.standing.meters
        for meter in meters:
            if (refusal := meter.refusal(now)) is not None:
                raise limit_reached(meter, *refusal)
        for meter in meters:
            meter.enter(now)
        self.entered = True

    def take_tokens(self, reading: int, writing: int, now: float) -> None:
        """Reserves what a request will probably read and write, so much of it that a request fits into an unused minute
        whatever it leaves open. Raises LimitReached."""
        meters = self.standing.meters
        amount = fitted(reading, writing, self.standing.tpm)
        for meter in meters:
            if (refusal := meter.token_refusal(amount, now)) is not None:
                raise limit_reached(meter, *refusal)
        for meter in meters:
            meter.reserved += amount
        self.tokens, self.asked = amount, (reading, writing)

    def choose(self, model: Meter | None, now: float) -> None:
        """Takes a place at a candidate whose model has limits of its own, and leaves the one before. Raises
        LimitReached; then there is none."""
        if self.model is model:
            return
        self._leave_model(0, now)
        if model is None:
            return
        amount = fitted(*self.asked, model.terms.tpm)
        refusal = model.refusal(now) or model.token_refusal(amount, now)
        if refusal is not None:
            raise limit_reached(model, *refusal)
        model.enter(now)
        model.reserved += amount
        self.model, self.model_tokens = model, amount

    def _leave_model(self, used: int, now: float) -> None:
        if self.model is not None:
            self.model.leave(self.model_tokens, used, now)
            self.model = None

    # -- budgets ---------------------------------------------------------------------------------------------

    def cover(self, nanos: int, now_ms: int) -> bool:
        """Sees to it that so much is reserved in all; whether more is than before. Raises BudgetSpent."""
        more = nanos - self.nanos
        accounts = self.standing.accounts
        for account in accounts:
            account.turn(now_ms)
            if not account.holds(more if more > 0 else 0) and (more > 0 or not self.nanos):
                raise budget_spent(account, nanos)
        return self.top_up(nanos)

    def top_up(self, nanos: int) -> bool:
        """As `cover`, without asking: an answer under way is finished."""
        more = nanos - self.nanos
        if more <= 0 or self.standing.key is None:
            return False
        for account in self.standing.accounts:
            account.reserved += more
        self.nanos = nanos
        return True

    def goes_on(self, reading: int, writing: int, nanos: int, now: float, now_ms: int) -> bool:
        """Of one that has entered: `take_tokens` and `cover` in one; False, and nothing taken, where one of them would
        refuse."""
        meters, accounts = self.standing.meters, self.standing.accounts
        amount = fitted(reading, writing, self.standing.tpm)
        for meter in meters:
            if meter.token_refusal(amount, now) is not None:
                return False
        for account in accounts:
            if not account.has_room(nanos, now_ms):
                return False
        for meter in meters:
            meter.reserved += amount
        if nanos:
            for account in accounts:
                account.reserved += nanos
        self.tokens, self.asked, self.nanos = amount, (reading, writing), nanos
        return True

    # -- the end ---------------------------------------------------------------------------------------------

    def settle(self, charged: int, tokens: int, now: float) -> tuple[Alert, ...]:
        """Once, at the end, however it ended: what was really used takes the place of what was reserved."""
        if self.settled:
            return NO_ALERTS
        self.settled = True
        if self.model is not None:
            self._leave_model(tokens, now)
        return alights(self.standing, self.tokens, self.nanos, self.at_ms, charged, tokens, now, self.entered)


def boards(standing: Standing, amount: int, nanos: int, now: float, now_ms: int) -> bool:
    """Enters, and takes so many tokens and so much money, for a permit that is not made yet; False, and nothing taken,
    where any of it would be refused."""
    meters, accounts = standing.meters, standing.accounts
    for account in accounts:
        if not account.has_room(nanos, now_ms):
            return False
    if len(meters) == 1:
        if not meters[0].boards(amount, now):
            return False
    else:
        for meter in meters:
            if not meter.fits(amount, now):
                return False
        for meter in meters:
            meter.board(amount, now)
    if nanos:
        for account in accounts:
            account.reserved += nanos
    return True


def alights(
    standing: Standing, amount: int, nanos: int, at_ms: int, charged: int, tokens: int, now: float,
    entered: bool = True,
) -> tuple[Alert, ...]:  # fmt: skip
    """As `Permit.settle`, of one that has boarded and is not made yet."""
    for meter in standing.meters if entered else ():
        meter.leave(amount, tokens, now)
    alerts = NO_ALERTS
    for account in standing.accounts:
        if due := account.settle(nanos, charged, at_ms):
            alerts += due
    return alerts


def fitted(reading: int, writing: int, most: int | None) -> int:
    """Of what may be written no more than a limit of so many tokens holds beside what is read."""
    if most is None or reading + writing <= most:
        return reading + writing
    return max(reading, most)


def told(name: str) -> str:
    """An account or a meter as its owner knows it."""
    kind, _, of = name.partition(":")
    return f"the {kind} {of}"


def limit_reached(meter: Meter, limit: str, wait: float) -> LimitReached:
    return LimitReached(f"The limit of {told(meter.name)} is reached: {limit}.", retry_after=max(wait, 0.001))


def budget_spent(account: Account, nanos: int) -> BudgetSpent:
    terms = account.terms
    assert terms is not None
    period = "" if terms.period == "none" else f" {terms.period}"
    said = f"The{period} budget of {told(account.name)} is {usd(terms.limit_nanos)} USD, of which "
    if account.spent >= terms.limit_nanos:
        said += f"{usd(account.spent)} USD are spent."
    else:
        said += (
            f"{usd(account.spent)} USD are spent and {usd(account.reserved)} USD are reserved by requests under way; "
            f"this one may cost {usd(nanos)} USD."
        )
    if account.end_ms < NEVER // 2:
        said += f" It begins anew at {datetime.fromtimestamp(account.end_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}."
    return BudgetSpent(said)


def tightest(meters: Sequence[Meter], now: float) -> tuple[tuple[int | None, Meter], tuple[int | None, Meter]]:
    """Of requests and of tokens per minute, how many are left and whose limit that is: the one closest to its end. None
    are left where nobody has such a limit."""
    requests: tuple[int | None, Meter] = None, meters[0]
    tokens = requests
    for meter in meters:
        of_requests, of_tokens = meter.left(now)
        if of_requests is not None and (requests[0] is None or of_requests < requests[0]):
            requests = of_requests, meter
        if of_tokens is not None and (tokens[0] is None or of_tokens < tokens[0]):
            tokens = of_tokens, meter
    return requests, tokens
