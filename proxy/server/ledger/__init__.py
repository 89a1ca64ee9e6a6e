"""The ledger: one row per request and one per attempt, in SQLite, append-only, written off the event loop."""

from proxy.server.ledger.query import Cursor, Decisions, Filter, Page, SearchTooLong, rows_as_json
from proxy.server.ledger.records import Attempt, Brief, Decision, Explains, GonePhase, Lease
from proxy.server.ledger.render import Column, clean, render_table
from proxy.server.ledger.schema import LedgerRefused
from proxy.server.ledger.writer import Ledger

__all__ = [
    "Attempt",
    "Brief",
    "Column",
    "Cursor",
    "Decision",
    "Decisions",
    "Explains",
    "Filter",
    "GonePhase",
    "Lease",
    "Ledger",
    "LedgerRefused",
    "Page",
    "SearchTooLong",
    "clean",
    "render_table",
    "rows_as_json",
]  # fmt: skip
