"""The device: prompts in, randomised segments out, answers back. docs/client.md shows how.

What is named here is imported when it is first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from del_client.answer import Answer
    from del_client.classifying import Classification
    from del_client.client import AsyncClient, Client
    from del_client.conversation import Conversation
    from del_client.embed_report import EmbedReport
    from del_client.ledger import Ledger
    from del_client.options import Options
    from del_client.policy import Policy
    from del_client.prompt import Message
    from del_client.query import Shaping
    from del_client.report import PrivacyReport
    from del_client.retrying import Patience

__all__ = [
    "Access",
    "Answer",
    "AsyncClient",
    "Classification",
    "Client",
    "Conversation",
    "EmbedReport",
    "Ledger",
    "Message",
    "Options",
    "Patience",
    "Policy",
    "PrivacyReport",
    "Shaping",
]

_HOMES = {
    "Access": "access",
    "Answer": "answer",
    "AsyncClient": "client",
    "Classification": "classifying",
    "Client": "client",
    "Conversation": "conversation",
    "EmbedReport": "embed_report",
    "Ledger": "ledger",
    "Message": "prompt",
    "Options": "options",
    "Patience": "retrying",
    "Policy": "policy",
    "PrivacyReport": "report",
    "Shaping": "query",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"del_client.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
