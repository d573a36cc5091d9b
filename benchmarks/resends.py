"""The same words sent k times: what the strongest attacks read, beside what the composition allows, and the ledger.

Every sending is a fresh release, as a device makes one for an edited message, in a new conversation or under another
codec; what the ledger remembers is sent as the same bits, which `through_the_gate` looks at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from del_client.cutting import Span
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.policy import Policy
from del_codec.caps import cap_prior
from del_codec.composition import epsilon_of
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.release import Release
from del_codec.released import release_of
from del_codec.table import LatentTable
from del_server.evaluation.attacks import Attacker, Case
from del_server.evaluation.channel import BinomialChannel
from del_server.evaluation.estimate import Estimate
from del_server.training.text import Ids

DELTA = 1e-5


class RepeatedChannel:
    """k releases of each token, each at a setting of its own: an observation is levels [..., k, d]."""

    def __init__(self, sendings: Sequence[BinomialChannel]) -> None:
        self._sendings = tuple(sendings)

    def observe(self, ids: Ids) -> Tensor:
        """Of ids [B, T], [B, T, k, d]."""
        return torch.stack([one.observe(ids) for one in self._sendings], dim=2)

    def rehearse(self, ids: Tensor) -> Tensor:
        """As observe, with torch's randomness."""
        return torch.stack([one.rehearse(ids) for one in self._sendings], dim=2)

    def log_likelihood(self, observed: Tensor) -> Tensor:
        """[N, V] of N observations [N, k, d]: releases are independent, so their log-likelihoods add up."""
        found = self._sendings[0].log_likelihood(observed[:, 0])
        for place, one in enumerate(self._sendings[1:], 1):
            found += one.log_likelihood(observed[:, place])
        return found


def read(
    attacker: Attacker, table: LatentTable, plans: Sequence[Sequence[NoiseSetting]], ids: Ids, names: Sequence[str]
) -> list[dict[str, Estimate]]:
    """What each attack reads of ids [B, T] that were sent at each plan's settings, one after another."""
    device, truth = torch.device("cpu"), torch.from_numpy(ids)
    channels = {setting: BinomialChannel(table, setting, device) for plan in plans for setting in plan}
    cases = []
    for plan in plans:
        channel = RepeatedChannel([channels[setting] for setting in plan])
        cases.append(Case(channel, channel.observe(ids), truth, decoded=torch.empty(0)))
    shares = attacker.run(cases, names)
    return [{name: Estimate.of(found.numpy()) for name, found in each.items()} for each in shares]


def allowed(table: LatentTable, plan: Sequence[NoiseSetting]) -> tuple[float, float]:
    """epsilon of one token at DELTA over all sendings, composed exactly; and the cap under the unigram prior.

    The cap takes all draws at the largest threshold among them, which is exact where there is one.
    """
    releases = [release_of(table, setting, 1) for setting in plan]
    whole = Release(sum(one.n_draws for one in releases), max(one.threshold_max for one in releases))
    return epsilon_of(releases, DELTA), cap_prior(whole, table.prior)


def through_the_gate(
    table: LatentTable, setting: NoiseSetting, other: NoiseSetting, times: int
) -> dict[str, tuple[int, float]]:
    """By how it was asked again: how many different payloads left in `times` askings, and how many were charged."""
    ids = tuple(range(100, 112))
    ways: dict[str, Callable[[int], tuple[str, tuple[int, ...], NoiseSetting]]] = {
        "the same message again": lambda _: ("one", ids, setting),
        "the same message at another setting": lambda turn: ("one", ids, setting if turn % 2 == 0 else other),
        "the message edited": lambda turn: ("one", (*ids[:-1], 200 + turn), setting),
        "in a new conversation": lambda turn: (f"talk {turn}", ids, setting),
    }
    found = {}
    for way, asked in ways.items():
        with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "ledger.sqlite3")) as ledger:
            gate, payloads = Gate(Policy(), ledger, "127.0.0.1:50051"), set[bytes]()
            for turn in range(times):
                name, words, noise = asked(turn)
                sent = gate.release(table, [Span(words, private=True, message=0)], noise, name)
                payloads |= {part.payload for part in sent.segments if isinstance(part, PrivateSegment)}
            with ledger.reading() as entries:
                day = entries.spent("day", entries.day)
            found[way] = (len(payloads), _draws(day.past) / _draws([release_of(table, setting, len(ids))]))
    return found


def _draws(releases: Sequence[Release]) -> float:
    return float(np.sum([one.n_draws for one in releases]))
