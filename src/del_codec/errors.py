"""The exceptions of DEL.

DelError
├── InvalidValue          a value that a caller gave (also a ValueError): names field, value and remedy
│   └── FrameError        bytes of a segment that break the wire format
├── ArtifactError         a file of a codec or a model that is damaged, missing or of a wrong kind
├── MismatchError         two sides that were not made for each other (codec, tokenizer, model)
├── ExhaustedError        a limit of the server is reached; try again later
├── UnavailableError      the server can't be reached, or is going away
├── AccessDenied          the server doesn't know who asks, or serves them no longer
├── PrivacyRefusal        the device refuses to send: what was asked exceeds what was allowed
│   └── LimitExceeded     a limit of the policy: which, by how much, and what would fit
├── TimedOut              what was allowed to take so long took longer (also a TimeoutError)
└── EngineError           the language model failed on this query

This module knows nothing of gRPC; service.py and transport.py translate.
"""


class DelError(Exception):
    """Base of every error that DEL raises on purpose. The text says what is wrong and what would be right."""


class InvalidValue(DelError, ValueError):
    """A value that can't be used. `field` names it as the caller knows it, `remedy` says what would do."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        shown = _shown(value)
        super().__init__(f"{field} is {shown}: {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy


def _shown(value: object) -> str:
    """The beginning of a value's repr, or its type where there is none."""
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or tables within tables
        return f"a {type(value).__name__} too long to be shown"
    return shown if len(shown) <= 80 else shown[:77] + "..."


class FrameError(InvalidValue):
    """Bytes of a segment that break the wire format."""


class ArtifactError(DelError):
    """A file of a codec or a model that is damaged, missing or of a wrong kind."""


class MismatchError(DelError):
    """Two sides that were not made for each other: another codec, tokenizer or model."""


class ExhaustedError(DelError):
    """A limit of the server is reached; `retry_after` says in how many seconds to try again."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(DelError):
    """The server can't be reached, or is going away.

    `retry_after` says in how many seconds the same bytes may be sent again; None: not by themselves.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AccessDenied(DelError):
    """The server doesn't know who asks, or serves them no longer."""


class PrivacyRefusal(DelError):
    """The device refuses to send: what was asked exceeds what its user allowed."""


class LimitExceeded(PrivacyRefusal):
    """A limit of the policy is exceeded.

    limit: the policy's key. value, bound: what it would come to, and what is allowed. largest_mu: the weakest noise at
    which the whole prompt fits; most_tokens: how many of its new private tokens fit as asked. None, 0: none does.
    """

    def __init__(
        self, message: str, *, limit: str, value: float, bound: float, largest_mu: float | None, most_tokens: int
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.value = value
        self.bound = bound
        self.largest_mu = largest_mu
        self.most_tokens = most_tokens


class TimedOut(DelError, TimeoutError):
    """What was allowed to take so long took longer."""


class EngineError(DelError):
    """The language model failed on this query."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line without a full stop; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
