"""Ways to get more out of a device than its policy allows, each of them failing.

The adversary is the server: it hands out tables and claims, refuses and asks again, retires codecs, and may wait for a
user who edits, splits or repeats what was written, or whose clock is wrong. What was received is added up here apart
from the ledger, from the segments themselves.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hostile_codecs import VOCABULARY, codec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from del_client.client import Client
from del_client.cutting import Span
from del_client.defaults import default_mu
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.policy import Kind, Limit, Policy, UnitLimits
from del_client.prepared import Prepared, preview
from del_codec.accounting import Release, epsilon, epsilon_of, pure_epsilon, rho, rho_of
from del_codec.attacks import token_scores
from del_codec.errors import LimitExceeded, PrivacyRefusal
from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.spec import Measured
from del_codec.table import LatentTable

SERVER = "evil:1"
DAY = 86_400
SECRET = tuple(range(40, 60))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path) as opened:
        yield opened


def message(ids: Sequence[int], number: int = 0) -> list[Span]:
    return [Span((1, 2), private=False), Span(tuple(ids), private=True, message=number)]


def private(prepared: Prepared) -> list[PrivateSegment]:
    return [segment for segment in prepared.segments if isinstance(segment, PrivateSegment)]


def received(table: LatentTable, prepared: Prepared) -> list[Release]:
    """What the server got, by its own count: draws, at the thresholds that its table reaches."""
    return [
        Release(one.tokens * table.spec.dim * one.setting.levels, one.setting.threshold_max(table.largest_latent))
        for one in private(prepared)
    ]


def at(mu: float, table: LatentTable, bits: int = 1) -> NoiseSetting:
    return NoiseSetting.from_mu(mu, table.spec.dim, bits)


def limited(**limits: Limit) -> Policy:
    return Policy(limits=UnitLimits(**limits))


class TestHostileTable:
    def test_rows_at_opposite_corners_tell_no_more_than_was_charged(self, ledger):
        """Two words as far apart as a table can put them: the evidence for one of them stays within the certificate."""
        corners = np.full((VOCABULARY, 16), 127, dtype=np.int8)
        corners[1::2] = -127
        table = codec(latents=corners)
        setting = at(3, table)
        one_token = Release(16, setting.threshold_max())
        prepared = Gate(Policy(), ledger, SERVER).release(table, message([0] * 4000), setting)
        levels = private(prepared)[0].levels(16)
        scores = token_scores(table, levels, setting, prior=None)
        evidence = scores[:, 0].astype(np.float64) - scores[:, 1]
        assert evidence.max() <= pure_epsilon(one_token) * (1 + 1e-5)
        certified = epsilon(one_token, 0.05)
        excess = np.maximum(0, 1 - np.exp(certified - evidence)).mean()
        assert excess <= 0.05 + 4 * 0.5 / np.sqrt(len(evidence))

    def test_more_dimensions_or_larger_rows_are_charged_for(self, ledger):
        small = codec(dim=16, latents=np.full((VOCABULARY, 16), 10, dtype=np.int8))
        setting = at(5, small)
        fits = rho(Release(16, setting.threshold_max(10))) * 1.001
        gate = Gate(limited(token=Limit(rho=fits)), ledger, SERVER)
        gate.release(small, message(SECRET), setting)
        for hostile in (codec(dim=1024), codec(dim=16)):
            with pytest.raises(LimitExceeded, match=r"limits\.token\.rho"):
                gate.release(hostile, message(SECRET), setting)

    def test_a_flattering_prior_lowers_no_cap(self, ledger):
        """A table that calls all words equally likely would prove a far lower cap than the words of a language have."""
        flat, steep = codec(), codec(counts=np.array([1] * (VOCABULARY - 1) + [10_000], dtype=np.uint32))
        policy = limited(token=Limit(cap=0.2))
        for table in (flat, steep):
            with pytest.raises(LimitExceeded, match=r"limits\.token\.cap"):
                Gate(policy, ledger, SERVER).release(table, message(SECRET), at(2, table))
        trusted = replace(policy, codecs=(flat.fingerprint,))
        Gate(trusted, ledger, SERVER).release(flat, message(SECRET), at(2, flat))

    def test_claims_of_low_attack_success_choose_no_weak_noise(self, ledger):
        table = codec(measured=(Measured(1_000_000, 1, 0, 1000), Measured(9_000, 1, 0, 1000)))
        assert default_mu(table.spec) == 9
        with pytest.raises(PrivacyRefusal, match="allow_weak"):
            Gate(Policy(allow_weak=False), ledger, SERVER).release(table, message(SECRET), at(1000, table))


class TestFreshNoise:
    def test_asking_again_gives_the_same_bits_and_no_better_guess(self, path):
        """The server fails every query. What it would learn from fresh noise is what it doesn't get."""
        table = codec(dim=64)
        setting, spans = at(4, table), message(SECRET)
        asked = []
        for _ in range(40):
            with Ledger(path) as ledger:  # each time a new start of the device
                asked.append(Gate(Policy(), ledger, SERVER).release(table, spans, setting, "talk"))
        assert len({one.segments for one in asked}) == 1
        fresh = [preview(table, spans, setting) for _ in range(40)]

        def recovered(prompts: Sequence[Prepared]) -> float:
            levels = [private(one)[0].levels(64) for one in prompts]
            scores = sum(token_scores(table, one, setting, prior=None) for one in levels)
            return float(np.mean(np.argmax(scores, axis=1) == SECRET))  # type: ignore[arg-type]

        assert recovered(fresh) > 0.9
        assert recovered(asked) == recovered(asked[:1]) < 0.5

    def test_a_preview_is_never_sent(self, ledger):
        """Bits that were looked at before they are charged could be drawn until they please."""
        table = codec()
        released = Gate(Policy(), ledger, SERVER).release(table, message(SECRET), at(5, table))
        released.check_released()
        with pytest.raises(PrivacyRefusal, match="preview"):
            preview(table, message(SECRET), at(5, table)).check_released()
        with pytest.raises(PrivacyRefusal, match="preview"):
            Client(SERVER).send(preview(table, message(SECRET), at(5, table)))

    @pytest.mark.parametrize("redraws", [0, 1, 3])
    def test_one_codec_after_another_gets_no_more_draws_than_allowed(self, ledger, redraws):
        gate, drawn = Gate(Policy(redraws=redraws), ledger, SERVER), 0
        for number in range(20):
            table = codec(model=f"codec {number}")
            with contextlib.suppress(PrivacyRefusal):
                gate.release(table, message(SECRET), at(5, table), "talk")
                drawn += 1
        assert drawn == redraws + 1

    def test_a_codec_swapped_in_mid_conversation_is_charged_in_full_or_refused(self, ledger):
        first, second = codec(model="first"), codec(model="second")
        setting = at(5, first)
        one_turn = rho(Release(16 * len(SECRET), setting.threshold_max(first.largest_latent)))
        gate = Gate(replace(limited(conversation=Limit(rho=1.5 * one_turn)), redraws=1000), ledger, SERVER)
        sent = gate.release(first, message(SECRET), setting, "talk")
        with pytest.raises(LimitExceeded, match=r"limits\.conversation\.rho"):
            gate.release(second, message(SECRET), setting, "talk")
        assert gate.codec_of("talk") == first.fingerprint
        assert gate.release(first, message(SECRET), setting, "talk").segments == sent.segments


class TestDowngrade:
    def test_no_prompt_leaves_in_the_clear_against_the_policy(self, ledger):
        with pytest.raises(PrivacyRefusal, match="allow_clear"):
            Gate(Policy(allow_clear=False), ledger, SERVER).public(message(SECRET))

    @given(flags=st.lists(st.booleans(), min_size=1, max_size=6))
    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_no_private_id_is_ever_in_a_public_segment(self, ledger, flags):
        table = codec()
        spans = [Span(tuple(range(at, at + 3)), flag, message=at) for at, flag in enumerate(flags)]
        prepared = Gate(Policy(), ledger, SERVER).release(table, spans, at(5, table))
        shown = [segment.token_ids for segment in prepared.segments if isinstance(segment, PublicSegment)]
        assert shown == [span.token_ids for span in spans if not span.private]

    def test_another_server_is_no_way_round(self, ledger):
        with pytest.raises(PrivacyRefusal, match="servers"):
            Gate(Policy(servers=("good:1",)), ledger, SERVER)


class TestManyWays:
    def test_many_small_prompts(self, ledger):
        table = codec()
        setting = at(5, table)
        ten = rho(Release(160, setting.threshold_max(table.largest_latent)))
        gate, got = Gate(limited(day=Limit(rho=ten * 1.001)), ledger, SERVER), list[Release]()
        for word in range(50):
            with contextlib.suppress(LimitExceeded):
                got += received(table, gate.release(table, message([word]), setting))
        assert len(got) == 10
        assert rho_of(got) <= ten * 1.001

    def test_small_edits_of_one_message_add_up_for_its_words(self, ledger):
        table = codec()
        setting = at(5, table)
        one = Release(16, setting.threshold_max(table.largest_latent))
        gate = Gate(limited(token=Limit(rho=3.001 * rho(one))), ledger, SERVER)
        for edit in range(3):
            gate.release(table, message([*SECRET, edit]), setting, "talk")
        with pytest.raises(LimitExceeded, match=r"limits\.token\.rho"):
            gate.release(table, message([*SECRET, 99]), setting, "talk")

    def test_one_secret_in_many_conversations(self, ledger):
        table = codec()
        setting = at(1, table)
        one = rho(Release(16 * 2, setting.threshold_max(table.largest_latent)))
        kinds = {"name": Kind("name", "private", mu=1.0, choices=100)}
        gate = Gate(replace(limited(secret=Limit(rho=4.001 * one)), kinds=kinds), ledger, SERVER)
        spans = [Span((7, 8), True, 0, "name", setting, secret=1)]
        for _ in range(4):
            gate.release(table, spans, setting)
        with pytest.raises(LimitExceeded, match=r"limits\.secret\.rho"):
            gate.release(table, spans, setting)

    def test_two_processes_at_once(self, path):
        table = codec()
        ten = rho(Release(160, at(5, table).threshold_max(table.largest_latent)))
        with Ledger(path):
            pass
        with multiprocessing.get_context("spawn").Pool(3) as pool:
            sent = pool.starmap(_send_what_goes, [(path, ten * 1.001, seed) for seed in range(3)])
        assert sum(sent) == 10

    @given(jumps=st.lists(st.integers(-5, 3), min_size=1, max_size=12))
    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_clock_that_jumps_opens_no_day_twice(self, tmp_path_factory, jumps):
        table, now = codec(), 1000
        setting = at(5, table)
        one = rho(Release(16, setting.threshold_max(table.largest_latent)))
        path = tmp_path_factory.mktemp("clock") / "ledger.sqlite3"
        sent, latest = 0, {now}
        with Ledger(path, clock=lambda: float(now * DAY)) as ledger:
            gate = Gate(limited(day=Limit(rho=2.001 * one)), ledger, SERVER)
            for jump in [0, *jumps]:
                now += jump
                latest.add(max(now, *latest))
                for _ in range(3):
                    with contextlib.suppress(LimitExceeded):
                        gate.release(table, message([5]), setting)
                        sent += 1
        assert sent == 2 * len(latest)

    @given(choices=st.lists(st.tuples(st.sampled_from([1.0, 3.0, 8.0, 20.0]), st.integers(1, 2), st.integers(1, 30))))
    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_settings_chosen_as_the_answers_come_stay_within_the_filter(self, tmp_path_factory, choices):
        table, got = codec(), list[Release]()
        policy = limited(conversation=Limit(epsilon=100.0))
        path = tmp_path_factory.mktemp("adaptive") / "ledger.sqlite3"
        with Ledger(path) as ledger:
            gate = Gate(policy, ledger, SERVER)
            for number, (mu, bits, tokens) in enumerate(choices):
                with contextlib.suppress(LimitExceeded):
                    prepared = gate.release(table, message(range(tokens), number), at(mu, table, bits), "talk")
                    got += received(table, prepared)
        assert epsilon_of(got, policy.delta) <= 100.0 * 1.01


def _send_what_goes(path: Path, bound: float, seed: int) -> int:
    table, sent = codec(), 0
    with Ledger(path) as ledger:
        gate = Gate(limited(day=Limit(rho=bound)), ledger, SERVER)
        for word in range(8):
            with contextlib.suppress(LimitExceeded):
                gate.release(table, message([word]), at(5, table), f"{seed} {word}")
                sent += 1
    return sent
