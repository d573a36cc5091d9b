"""TokenCap: the proven cap on naming one token, under a prior that the device has reason to believe.

That is the codec's own where the policy lists the codec; else that of a codec of this package for the same tokenizer;
else any prior in which no token has a larger share than the policy's `commonest`. A server's word is none of these: a
table that calls all tokens equally likely lowers no cap. Knows nothing of limits.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from del_client.policy import Policy
from del_codec.caps import cap_commonest, cap_prior
from del_codec.release import Release
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable


class TokenCap:
    """The cap of one token of a codec, as a function of its release."""

    def __init__(self, table: LatentTable, policy: Policy) -> None:
        self._table = table
        self._policy = policy
        self._known: dict[Release, float] = {}

    def __call__(self, release: Release) -> float:
        """No attack that has the prior and nothing else names the token with a greater chance."""
        if release not in self._known:
            prior = self.prior
            share = self._policy.commonest
            self._known[release] = cap_commonest(release, share) if prior is None else cap_prior(release, prior)
        return self._known[release]

    @cached_property
    def prior(self) -> npt.NDArray[np.float64] | None:
        """The unigram probabilities [V] that the device believes; None where it has none."""
        if self._table.fingerprint in (self._policy.codecs or ()):
            return self._table.prior
        return _shipped_prior(self._table.spec.tokenizer_sha256)


@lru_cache(maxsize=8)
def _shipped_prior(tokenizer_sha256: str) -> npt.NDArray[np.float64] | None:
    for folder in codec_folders():
        table = LatentTable.load(folder / DEVICE_FILE)
        if table.spec.tokenizer_sha256 == tokenizer_sha256:
            return table.prior
    return None
