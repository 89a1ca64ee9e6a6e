"""The books: what every key, project and model has used. They outlive every table, as long as the process does.

What a key may is looked up once for each table: its `Standing` holds the accounts and meters that its requests go by.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field

from proxy.accounts.budget import Account, BudgetTerms
from proxy.accounts.keys import Key
from proxy.accounts.limits import NO_LIMITS, LimitTerms, Meter
from proxy.record import define, frozen


@frozen
class Terms:
    """What a table allows a project."""

    budget: BudgetTerms | None = None
    limits: LimitTerms = NO_LIMITS


@frozen(eq=False)
class Standing:
    """What the requests of one key go by; without a key, as in open mode, by nothing. `priced_only`: a budget among
    them takes nothing of unknown price."""

    key: Key | None = None
    accounts: tuple[Account, ...] = ()
    meters: tuple[Meter, ...] = ()
    budgeted: bool = False
    priced_only: bool = False
    tpm: int | None = None  # the least of its limits
    key_id: str | None = field(init=False)
    project: str | None = field(init=False)
    scope: str = field(init=False)  # keeps what belongs to one caller apart from another's

    @key_id.default
    def _key_id(self) -> str | None:
        return None if self.key is None else self.key.id

    @project.default
    def _project(self) -> str | None:
        return None if self.key is None else self.key.project

    @scope.default
    def _scope(self) -> str:
        return "" if self.key is None else self.key.id


ANYBODY = Standing()


@define(eq=False)
class Books:
    accounts: dict[str, Account] = field(factory=dict)
    meters: dict[str, Meter] = field(factory=dict)

    def open(self, name: str, days: Mapping[int, int]) -> Account:
        """An account with what the ledger says of it: nano-USD by day since 1970."""
        account = self.accounts.setdefault(name, Account(name))
        account.days.update(days)
        return account

    def account(self, name: str, terms: BudgetTerms | None, now_ms: int) -> Account:
        account = self.accounts.get(name)
        if account is None:
            account = self.accounts[name] = Account(name)
        account.tune(terms, now_ms)
        return account

    def meter(self, name: str, terms: LimitTerms) -> Meter:
        meter = self.meters.get(name)
        if meter is None:
            meter = self.meters[name] = Meter(name)
        meter.terms = terms
        return meter

    def standing(self, key: Key, project: Terms | None, now_ms: int) -> Standing:
        """Of a key without a budget nobody keeps an account; that of a project is kept, for it may get a budget."""
        accounts, meters = [], []
        if key.budget is not None:
            accounts.append(self.account(f"key:{key.id}", key.budget, now_ms))
        if key.limits != NO_LIMITS:
            meters.append(self.meter(f"key:{key.id}", key.limits))
        if project is not None:
            name = f"project:{key.project}"
            accounts.append(self.account(name, project.budget, now_ms))
            if project.limits != NO_LIMITS:
                meters.append(self.meter(name, project.limits))
        budgets = [account.terms for account in accounts if account.terms is not None]
        strict = any(terms.unpriced == "refuse" for terms in budgets)
        tpm = min((meter.terms.tpm for meter in meters if meter.terms.tpm is not None), default=None)
        return Standing(key, tuple(accounts), tuple(meters), bool(budgets), strict, tpm)
