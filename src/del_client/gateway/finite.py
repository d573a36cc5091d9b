"""Numbers as JSON has them: it knows no infinity, and a server may send any float."""

from __future__ import annotations

import math
from typing import Any

# What OpenAI writes where a token is too unlikely for a number.
UNLIKELY = -9999.0


def finite(value: Any) -> Any:
    """The value; None for a float that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def logprob(value: float) -> float:
    """A natural-log probability; UNLIKELY for one that is not finite."""
    return value if math.isfinite(value) else UNLIKELY
