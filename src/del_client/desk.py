"""Desk: prompts on this device, before anything leaves it: what is sensitive, what is private, what it would show.

Needs a codec's table and tokenizer, and no server. Knows nothing of ledgers or of the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from del_client.options import Options
from del_client.policy import Policy
from del_client.prepared import Prepared, preview
from del_client.priors import TokenCap
from del_client.prompt import Message, PromptReader, Span, as_public
from del_client.protection.detectors import detectors_for
from del_client.protection.placeholders import Placeholders
from del_client.protection.protector import Protector
from del_client.report import PrivacyReport, attack_recovered, noise_report, privacy_report, secret_reports
from del_codec.errors import InvalidValue
from del_codec.frame import Segment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable

Prompt = str | Sequence[Message | Mapping[str, Any]]


class Desk:
    """Reads prompts for one codec under one policy."""

    def __init__(self, table: LatentTable, reader: PromptReader, policy: Policy) -> None:
        self.table = table
        self.reader = reader
        self.policy = policy
        self._cap = TokenCap(table, policy)
        self._protector = Protector(policy.kinds, detectors_for(policy.kinds), table.spec.dim)

    def chat(self, prompt: Prompt, placeholders: Placeholders | None = None) -> list[Message]:
        """The messages of a prompt, their sensitive spans protected; `placeholders` (None: new ones) learns of them."""
        known = Placeholders() if placeholders is None else placeholders
        return [self._protector.protect(message, known) for message in messages(prompt)]

    def preview(self, spans: Sequence[Span], options: Options) -> Prepared:
        """The spans with bits of their own, to be looked at and never sent: choosing among draws voids certificates."""
        return preview(self.table, as_public(spans) if options.clear else spans, options.setting(self.table.spec))

    def privacy(self, prepared: Prepared, delta: float | None = None) -> PrivacyReport | None:
        """The certificate of all that `prepared` gives away; None where nothing in it is private.

        delta: None for the policy's. Raises PrivacyRefusal for one that the policy excludes.
        """
        stated = self.policy.delta_for(delta)
        secrets = secret_reports(
            self.table, prepared.spans, prepared.segments, self._protector.kinds, stated, self._cap
        )
        return privacy_report(self.table, prepared.segments, stated, self._cap, secrets)

    def certificate(self, segments: Iterable[Segment], delta: float | None = None) -> PrivacyReport | None:
        """The same of any segments of this codec."""
        return privacy_report(self.table, tuple(segments), self.policy.delta_for(delta), self._cap)

    @property
    def attack_prior(self) -> npt.NDArray[np.float64]:
        """How common an attacker takes each token [V] to be: as the device believes, else as the codec's maker says."""
        return self.table.prior if self._cap.prior is None else self._cap.prior

    def one_token(self, setting: NoiseSetting, delta: float | None = None) -> PrivacyReport:
        """The certificate of any single token at that noise."""
        return noise_report(self.table, [(setting, 1)], self.policy.delta_for(delta), self._cap)

    def attack_recovered(self, prepared: Prepared) -> float:
        """The share of its private tokens that the best attack on single tokens recovers from these very bits."""
        return attack_recovered(self.table, prepared.spans, prepared.segments, self.attack_prior)


def messages(prompt: Prompt) -> list[Message]:
    """The messages of a prompt; a str is one private message of the user.

    Raises InvalidValue for no message, or a mapping with other keys than role, content and public.
    """
    if isinstance(prompt, str):
        return [Message("user", prompt)]
    if not prompt:
        raise InvalidValue("messages", [], "write at least one message")
    return [message if isinstance(message, Message) else _message(message) for message in prompt]


def _message(fields: Mapping[str, Any]) -> Message:
    if not {"role", "content"} <= set(fields) <= {"role", "content", "public"}:
        raise InvalidValue("message", dict(fields), "give it role, content and, for what the server may read, public")
    return Message(fields["role"], fields["content"], public=bool(fields.get("public", False)))
