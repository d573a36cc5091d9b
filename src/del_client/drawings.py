"""Drawing: bits that a query would draw, before they are drawn; Standing: what they would add to each unit's spend.

Computed from the table's own integers, never from what a server claims. Knows nothing of limits or texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from del_client.entries import Charge, Entries, Spent
from del_client.limits import Use, exact_epsilon
from del_client.policy import Policy
from del_codec.accounting import rho
from del_codec.noise import NoiseSetting
from del_codec.release import Release
from del_codec.released import release_of
from del_codec.table import LatentTable

# A secret whose kind does not say among how many values it would have to be guessed could be one of two.
_FEWEST_CHOICES = 2


@dataclass(frozen=True, slots=True)
class Drawing:
    """`tokens` tokens of one message, drawn at one setting. secrets: the tags of the secret that they belong to."""

    message: int
    kind: str
    secrets: tuple[bytes, ...]
    setting: NoiseSetting
    tokens: int

    def release(self, table: LatentTable) -> Release:
        """All of its draws."""
        return release_of(table, self.setting, self.tokens)

    def one_token(self, table: LatentTable) -> Release:
        """The draws of one of its tokens."""
        return release_of(table, self.setting, 1)

    def charge(self, table: LatentTable, delta: float) -> Charge:
        """What the ledger writes of it."""
        release = self.release(table)
        return Charge(
            message=self.message,
            kind=self.kind,
            secret=self.secrets[0] if self.secrets else b"",
            setting=self.setting,
            tokens=self.tokens,
            release=release,
            mu=self.setting.mu(table.spec.dim),
            epsilon=exact_epsilon((release,), delta),
            delta=delta,
            rho=rho(release),
        )


class Standing:
    """What the units that a query touches spent before it, and what its drawings add to them.

    A token is known by its conversation and message: every draw for that message counts for each of its tokens, since
    an edit may have kept any of them. home: the conversation that a message's tokens belong to.
    """

    def __init__(
        self,
        entries: Entries,
        policy: Policy,
        conversation: str,
        drawings: Sequence[Drawing],
        home: Callable[[int], str],
    ) -> None:
        self._policy = policy
        self._entries = entries
        self._conversation = conversation
        self._token_keys = {one.message: entries.tag("token", home(one.message), one.message) for one in drawings}
        self._tokens = {message: entries.spent("token", key) for message, key in self._token_keys.items()}
        self._secrets = {key: entries.spent("secret", key) for one in drawings for key in one.secrets}
        self._conversations = entries.spent("conversation", conversation)
        self._days = entries.spent("day", entries.day)

    def uses(self, table: LatentTable, drawings: Sequence[Drawing]) -> list[Use]:
        """What the limits look at; a token is in one drawing, the other units in several."""
        whole = tuple(one.release(table) for one in drawings)
        tokens = dict.fromkeys((one.message, one.one_token(table)) for one in drawings)
        return [
            *(Use("token", self._tokens[message], (release,)) for message, release in tokens),
            *(
                Use("secret", self._secrets[key], _of_secret(table, drawings, key), self._choices(drawings, key))
                for key in self._secrets
            ),
            Use("prompt", Spent(), whole),
            Use("conversation", self._conversations, whole),
            Use("day", self._days, whole),
        ]

    def write(self, table: LatentTable, drawings: Sequence[Drawing]) -> None:
        """Add the drawings to every unit's total."""
        for message, key in self._token_keys.items():
            self._entries.add("token", key, [one.one_token(table) for one in drawings if one.message == message])
        for key in self._secrets:
            self._entries.add("secret", key, _of_secret(table, drawings, key))
        whole = [one.release(table) for one in drawings]
        self._entries.add("conversation", self._conversation, whole)
        self._entries.add("day", self._entries.day, whole)

    def _choices(self, drawings: Sequence[Drawing], key: bytes) -> int:
        kind = next(self._policy.kinds.get(one.kind) for one in drawings if key in one.secrets)
        return kind.choices if kind and kind.choices else _FEWEST_CHOICES


def _of_secret(table: LatentTable, drawings: Sequence[Drawing], key: bytes) -> tuple[Release, ...]:
    return tuple(one.release(table) for one in drawings if key in one.secrets)
