"""How long property tests look: the fast suite takes hypothesis' own number of examples, `make fuzz` many more.

`make fuzz` sets POINTSMAN_FUZZ to a number of examples; the profile of that name is then in force.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("POINTSMAN_FUZZ", "0"))


def load_profile() -> None:
    if EXAMPLES:
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
        settings.register_profile("fuzz", deadline=None, max_examples=EXAMPLES, suppress_health_check=checks)
        settings.load_profile("fuzz")
    else:
        settings.register_profile("pointsman", deadline=None)
        settings.load_profile("pointsman")
