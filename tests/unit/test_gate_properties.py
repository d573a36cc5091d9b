"""Whatever is said, said again, edited, forgotten or interrupted, in whatever order: the ledger adds up.

A model beside the gate keeps what was sent in a dictionary and counts draws by hand.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from client_fakes import make_codec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from del_client.cutting import Span
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.policy import Limit, Policy, UnitLimits
from del_client.report import release_of
from del_codec.accounting import rho
from del_codec.errors import LimitExceeded
from del_codec.noise import NoiseSetting
from del_codec.release import Release

SETTINGS = [NoiseSetting.from_mu(mu, 12, bits) for mu, bits in ((3.0, 1), (8.0, 1), (5.0, 2))]
NAMES = st.sampled_from("ab")
NUMBERS = st.integers(0, 2)
# Long enough that two draws of one text are never alike by chance.
TEXTS = st.sampled_from([tuple(range(start, start + 40)) for start in (0, 50, 100)])
DAY, DAILY = 86_400, 600.0


class Ledgers(RuleBasedStateMachine):
    """Two conversations of up to three messages, each of one of three texts."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._path, self._table = folder / "ledger.sqlite3", make_codec(folder / "codec").table
        self._day = 1000
        self._sent: dict[tuple[str, int, tuple[int, ...]], bytes] = {}
        self._drawn: dict[str | int, Counter[int]] = {}
        self._start()

    def teardown(self) -> None:
        self._ledger.close()
        self._folder.cleanup()

    def _start(self) -> None:
        self._ledger = Ledger(self._path, clock=lambda: float(self._day * DAY))
        policy = Policy(redraws=1000, limits=UnitLimits(day=Limit(rho=DAILY)))
        self._gate = Gate(policy, self._ledger, "server")

    def _day_total(self) -> list[Release]:
        return [Release(draws, threshold) for threshold, draws in self._drawn.get(self._day, Counter()).items()]

    @rule(name=NAMES, number=NUMBERS, text=TEXTS, setting=st.sampled_from(SETTINGS))
    def say(self, name: str, number: int, text: tuple[int, ...], setting: NoiseSetting) -> None:
        release = release_of(self._table, setting, len(text))
        known = self._sent.get((name, number, text))
        total = sum(rho(one) for one in self._day_total()) + rho(release)
        try:
            (segment,) = self._gate.release(self._table, [Span(text, True, number)], setting, name).segments
        except LimitExceeded:
            assert known is None
            assert total > DAILY * (1 - 1e-9)
            return
        if known is not None:
            assert segment.payload == known
            return
        assert total <= DAILY * (1 + 1e-9)
        assert segment.payload not in self._sent.values()
        self._sent[name, number, text] = segment.payload
        for unit in (name, self._day):
            self._drawn.setdefault(unit, Counter())[release.threshold_max] += release.n_draws

    @rule(name=NAMES)
    def forget(self, name: str) -> None:
        count = len([key for key in self._sent if key[0] == name])
        assert self._ledger.forget(name) == count
        self._sent = {key: payload for key, payload in self._sent.items() if key[0] != name}

    @rule()
    def restart(self) -> None:
        self._ledger.close()
        self._start()

    @rule()
    def sleep(self) -> None:
        self._day += 1

    @invariant()
    def totals_are_what_was_drawn(self) -> None:
        with self._ledger.reading() as entries:
            for unit, drawn in self._drawn.items():
                spent = entries.spent("conversation" if isinstance(unit, str) else "day", unit)
                assert {one.threshold_max: one.n_draws for one in spent.past} == drawn
            assert entries.memory_bytes() == sum(map(len, self._sent.values()))


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(max_examples=15, stateful_step_count=25)
