"""Fields: a request's fields, each taken once and checked; what nobody took is refused by its name.

Knows nothing of what the fields are for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Container, Mapping, Sequence
from typing import Any

from del_client.gateway.errors import ApiError

_MOST = sys.float_info.max


class Fields:
    """The fields of one object; null counts as absent. inside: the name of the field that the object is, if any."""

    def __init__(self, values: Mapping[str, Any], inside: str = "") -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._inside = inside

    def path(self, name: str) -> str:
        """A field's name as a caller knows it."""
        return f"{self._inside}.{name}" if self._inside else name

    def take(self, name: str) -> Any:
        """A field as it is; None where there is none."""
        return self._values.pop(name, None)

    def text(self, name: str) -> str | None:
        """A string."""
        value = self._checked(name, "a string", lambda value: isinstance(value, str))
        return None if value is None else str(value)

    def needed_text(self, name: str) -> str:
        """A string that has to be there."""
        value = self.text(name)
        if value is None:
            raise missing(self.path(name))
        return value

    def flag(self, name: str) -> bool:
        """true or false; false where it is absent."""
        return bool(self._checked(name, "true or false", lambda value: isinstance(value, bool)))

    def number(self, name: str, low: float = -_MOST, high: float = _MOST) -> float | None:
        """A number from `low` to `high`; without them any that is a float, for others to check."""
        value = self._checked(name, "a number", lambda value: isinstance(value, (int, float)) and _is_number(value))
        return None if value is None else float(self._within(name, value, low, high))

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`."""
        value = self._checked(name, "a whole number", lambda value: isinstance(value, int) and _is_number(value))
        return None if value is None else int(self._within(name, value, low, high))

    def texts(self, name: str, most: int) -> list[str]:
        """A string or a list of up to `most`; none where it is absent."""
        value = self.take(name)
        if value is None:
            return []
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise wrong_type(self.path(name), "a string or a list of strings")
        if len(found) > most:
            path = self.path(name)
            raise ApiError(400, f"{path} has {len(found)} entries: at most {most}", param=path, code="invalid_value")
        return found

    def fields(self, name: str) -> Fields:
        """The fields of an object; none where it is absent."""
        value = self._checked(name, "an object", lambda value: isinstance(value, dict))
        return Fields(value or {}, self.path(name))

    def finish(self, neutral: Mapping[str, Sequence[Any]]) -> None:
        """Refuse what was not taken.

        neutral: the known fields that can't be served, with the values that ask for nothing; others are unknown.
        """
        for name, value in self._values.items():
            path = self.path(name)
            if name not in neutral:
                raise ApiError(400, f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")
            if value not in neutral[name]:
                raise ApiError(
                    400,
                    f"Unsupported parameter: '{path}' is not served: this device can't apply it.",
                    param=path,
                    code="unsupported_parameter",
                )

    def _checked(self, name: str, what: str, fits: Any) -> Any:
        value = self.take(name)
        if value is not None and not fits(value):
            raise wrong_type(self.path(name), what)
        return value

    def _within(self, name: str, value: float, low: float, high: float) -> float:
        if not low <= value <= high:
            path = self.path(name)
            raise ApiError(400, f"{path} is {value}: use {low} to {high}", param=path, code="invalid_value")
        return value


def missing(path: str) -> ApiError:
    """The error for a field that has to be there."""
    return ApiError(400, f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")


def wrong_type(path: str, what: str) -> ApiError:
    """The error for a field of another kind."""
    return ApiError(400, f"Invalid type for '{path}': expected {what}.", param=path, code="invalid_type")


def one_of(path: str, value: Any, allowed: Container[Any], said: str) -> None:
    """Raise ApiError unless a value is one of those allowed, which are `said`."""
    if value not in allowed:
        raise ApiError(400, f"Invalid value for '{path}': use {said}.", param=path, code="invalid_value")


def _is_number(value: float) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or math.isfinite(value))
