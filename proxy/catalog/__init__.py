"""The catalog: what is known of a model before anybody is asked. Limits, prices, capabilities.

Three sources, the nearer one wins: the table (`routes.toml`), the provider's own list, and what ships here: prices
from `proxy/data/prices.json` (`load_prices`) and priors by family name (`family`). What was *observed* of a model, its
latency and its health, is not here: it changes by the second and belongs to `routing.health`.
"""

from proxy.catalog.book import PriceBook, Quote, load_prices
from proxy.catalog.families import Family, chats, family
from proxy.catalog.lists import Listed
from proxy.catalog.model import CAPABILITIES, ModelInfo
from proxy.catalog.price import Price, Tier, worst_case_nanos

__all__ = [
    "CAPABILITIES",
    "Family",
    "Listed",
    "ModelInfo",
    "Price",
    "PriceBook",
    "Quote",
    "Tier",
    "chats",
    "family",
    "load_prices",
    "worst_case_nanos",
]
