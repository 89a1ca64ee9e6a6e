"""Say what admitting, settling and noting a request take: microseconds with 100,000 keys.

python scripts/bench_admission.py
"""

import argparse
import io
import os
from collections.abc import Callable
from time import perf_counter_ns

from proxy.accounts.admission import Caller, Gate
from proxy.accounts.books import Books, Terms
from proxy.accounts.budget import BudgetTerms
from proxy.accounts.keys import CHAT_SURFACES, ENTROPY, Key, KeyRing, digest_of, mint, presented
from proxy.accounts.limits import LimitTerms
from proxy.ir import Usage
from proxy.secret import Scrubber
from proxy.server.gateway import log_fields
from proxy.server.ledger import Decision
from proxy.server.log import Log

KEYS = 100_000
NOW_MS = 1_764_000_000_000
GOALS = {"check of a key": 2.0, "key, budgets and limits": 8.0, "one log line": 4.0}
BUDGET = BudgetTerms(limit_nanos=10**15, period="monthly", alert=800)
LIMITS = LimitTerms(rpm=10**9, tpm=10**12, parallel=10**6)


def ring() -> tuple[KeyRing, list[str]]:
    made, wholes = [], []
    for _ in range(KEYS):
        id, whole = mint("neu", os.urandom(ENTROPY))
        made.append(
            Key(id, "bench", "neu", digest_of(whole), whole[-4:], NOW_MS, project="x", budget=BUDGET, limits=LIMITS)
        )
        wholes.append(f"Bearer {whole}")
    return KeyRing(made), wholes[:: KEYS // 1000]


def nobody() -> Caller:
    raise AssertionError("not asked once there are keys")


def timed(work: Callable[[int], object], rounds: int) -> tuple[float, float]:
    """Microseconds of one call, in batches of 100: the median, and the quickest tenth, which a busy machine leaves."""
    for number in range(1000):
        work(number)
    taken = []
    for start in range(0, rounds, 100):
        began = perf_counter_ns()
        for number in range(start, start + 100):
            work(number)
        taken.append((perf_counter_ns() - began) / 100_000)
    taken.sort()
    return taken[len(taken) // 2], taken[len(taken) // 10]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50_000, help="calls of each kind (default 50000)")
    options = parser.parse_args()
    keys, sent = ring()
    gate = Gate("keys", keys, Books(), {"x": Terms(BUDGET, LIMITS)})
    log = Log(json=True, level="info", scrubber=Scrubber(), stream=io.StringIO())
    usage = Usage(input=812, output=97)
    decision = Decision(
        "req_0123456789abcdef0123456789abcdef", NOW_MS, "chat", model="gpt-4o-mini", provider="openai", status=200,
        usage=usage, cost_nanos=4_130_000, key_id="8kTq0ZbX41pd", project="team-a", duration_ms=5210, ttfb_ms=310,
    )  # fmt: skip

    def check(number: int) -> object:
        whole = presented((sent[number % 1000],), ())
        assert whole is not None
        return keys.check(whole, NOW_MS)

    read = [(whole, digest_of(whole)) for value in sent if (whole := presented((value,), ())) is not None]

    def admit(number: int) -> object:
        """As of a request whose head came before: its key was read then."""
        now = number / 1000
        whole, digest = read[number % 1000]
        permit = gate.admit(whole, nobody, NOW_MS, CHAT_SURFACES, digest)
        permit.enter(now)
        permit.take_tokens(812, 4096, now)
        permit.cover(5_000_000, NOW_MS)
        return permit.settle(4_130_000, 909, now)

    def line(number: int) -> None:
        log.request_done(log_fields(decision, "127.0.0.1"))

    print(f"{KEYS:,} keys; microseconds of one call")
    print(f"{'':26}{'median':>8}{'tenth':>8}{'goal':>6}")
    for name, work in zip(GOALS, (check, admit, line), strict=True):
        median, tenth = timed(work, options.rounds)
        print(f"{name:26}{median:>8.2f}{tenth:>8.2f}{GOALS[name]:>6g}")
    log.close()


if __name__ == "__main__":
    main()
