"""What is counted and measured, for Prometheus: every metric's name, labels and buckets stand in `SPECS`.

No label ever grows with what clients send: models and providers are named once `known` has announced them, outcomes
are the codes of `errors`, other words come from our own code, and each label and each metric has a cap. What does not
fit is counted under "other". A key, a user or a raw client string is never a label.

prometheus-client brings what it knows of the process, and is imported by the first scrape: it takes 5 MB.
"""

from proxy.metrics.recorded import TOKENS_OF, Answers, Metrics
from proxy.metrics.series import Histogram, Number
from proxy.metrics.specs import SPECS

__all__ = ["SPECS", "TOKENS_OF", "Answers", "Histogram", "Metrics", "Number"]
