from __future__ import annotations

from datetime import UTC, datetime

from proxy.catalog import Price, load_prices, worst_case_nanos
from proxy.ir import Usage


def test_a_fee_for_each_request_comes_on_top_of_the_tokens() -> None:
    price = Price.per_million({"input": "1", "output": "1"}, thousand_requests="12")
    assert price.cost_nanos(Usage(input=80, output=68)) == 12_148_000
    assert worst_case_nanos(price, 80, 68) == 12_148_000


def test_the_list_has_the_fees_of_those_who_search() -> None:
    quote = load_prices().find("perplexity", "sonar", at=datetime(2026, 6, 1, tzinfo=UTC))
    assert quote is not None
    assert quote.price.request == 12_000_000_000
