"""The ledger: one row per request and one per attempt, in SQLite, append-only, written off the event loop.

Who reads it asks `query`, and shows it by `render`.
"""

from proxy.server.ledger.records import Attempt, Brief, Decision, Explains, GonePhase, Lease
from proxy.server.ledger.schema import LedgerRefused
from proxy.server.ledger.writer import Ledger

__all__ = ["Attempt", "Brief", "Decision", "Explains", "GonePhase", "Lease", "Ledger", "LedgerRefused"]
