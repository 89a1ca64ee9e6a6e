"""Every wire format the gateway knows, by name. A new one is a module and a line here."""

from proxy.dialects import anthropic, openai_chat, openai_responses, workers_ai
from proxy.dialects.dialect import Dialect

DIALECTS: dict[str, Dialect] = {
    module.DIALECT.name: module.DIALECT for module in (openai_chat, openai_responses, anthropic, workers_ai)
}

__all__ = ["DIALECTS", "Dialect"]
