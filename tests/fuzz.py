"""How long property tests look: `make test-slow` takes hypothesis' own number of examples, the fast suite a quarter of
it, `make fuzz` many more.

python fuzz.py MINUTES

plays every property test of what reads foreign bytes, round after round with other examples, so that each of them has
its share of the time. POINTSMAN_FUZZ is the number of examples in a round; the profile of that name is then in force.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, settings

TESTS = ("test_fuzz.py", "test_fuzz_answers.py", "test_giant_frames.py", "wire", "server/express/test_ride_fuzz.py")
A_ROUND = 300  # examples
FULL, QUICK = 100, 25  # examples: hypothesis' own number, and that of the fast suite
LEAST = 10  # of any property that has as many
EXAMPLES = int(os.environ.get("POINTSMAN_FUZZ", "0"))
SEED = int(os.environ.get("POINTSMAN_FUZZ_SEED", "0"))  # of tests that throw dice of their own


def load_profile(*, fast: bool) -> None:
    """`fast` is the suite of `make test`."""
    if EXAMPLES:
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
        settings.register_profile("fuzz", deadline=None, max_examples=EXAMPLES, suppress_health_check=checks)
        settings.load_profile("fuzz")
    else:
        name, checks = "fast" if fast else "full", [HealthCheck.too_slow]
        settings.register_profile(
            name, deadline=None, max_examples=QUICK if fast else FULL, suppress_health_check=checks
        )
        settings.load_profile(name)


def examples(full: int) -> int:
    """For `settings(max_examples=...)` of a property that needs more examples than others, or gets by on fewer: its
    share of them by the profile in force."""
    assert settings.default is not None
    return max(min(full, LEAST), full * settings.default.max_examples // FULL)


def fuzz(minutes: float) -> int:
    """0 where nothing was found. The last round is the last that ends in time, and one is played to its end always."""
    here, began, rounds, longest = Path(__file__).parent, time.monotonic(), 0, 0.0
    while rounds == 0 or time.monotonic() - began + longest < minutes * 60:
        start, seed = time.monotonic(), int.from_bytes(os.urandom(4))
        played = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-n",
                "2",
                f"--hypothesis-seed={seed}",
                *(here / it for it in TESTS),
            ],
            env={
                **os.environ,
                "POINTSMAN_FUZZ": os.environ.get("POINTSMAN_FUZZ", str(A_ROUND)),
                "POINTSMAN_FUZZ_SEED": str(seed),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        rounds, took = rounds + 1, time.monotonic() - start
        longest = max(longest, took)
        if played.returncode:
            print(f"{played.stdout}\nround {rounds} found something, with the seed {seed}")  # noqa: T201
            return 1
        print(f"round {rounds}: {took:.0f} s, {played.stdout.strip().splitlines()[-1]}", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(fuzz(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0))
