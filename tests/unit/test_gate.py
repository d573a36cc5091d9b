"""The gate: what is charged, what is repeated, what is refused and what the refusal says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from client_fakes import make_codec

from del_client.cutting import Span
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.policy import Kind, Limit, Policy, UnitLimits
from del_client.report import release_of
from del_codec.accounting import certify, epsilon, rho
from del_codec.caps import cap_commonest
from del_codec.errors import InvalidValue, LimitExceeded, PrivacyRefusal
from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable

SERVER = "127.0.0.1:50051"
DAY = 86_400


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatentTable:
    return make_codec(tmp_path_factory.mktemp("codec")).table


@pytest.fixture(scope="module")
def other_table(tmp_path_factory: pytest.TempPathFactory) -> LatentTable:
    return make_codec(tmp_path_factory.mktemp("other"), model="other").table


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite3") as opened:
        yield opened


@pytest.fixture
def setting(table: LatentTable) -> NoiseSetting:
    return NoiseSetting.from_mu(5, table.spec.dim, 1)


def turn(message: int, ids: Sequence[int], **fields: object) -> list[Span]:
    """A template's ids, then a message's private ones."""
    return [Span((0, 1), private=False), Span(tuple(ids), private=True, message=message, **fields)]  # type: ignore[arg-type]


def bits(prepared) -> list[bytes]:
    return [segment.payload for segment in prepared.segments if isinstance(segment, PrivateSegment)]


def spent(ledger: Ledger, unit: str, key: str | int):
    with ledger.reading() as entries:
        return entries.spent(unit, key).past


def limits(**units: Limit) -> Policy:
    return Policy(limits=UnitLimits(**units))


def test_a_prompt_leaves_as_bits_and_public_ids(table, ledger, setting):
    prepared = Gate(Policy(), ledger, SERVER).release(table, turn(0, range(5, 25)), setting)
    public, private = prepared.segments
    assert public == PublicSegment((0, 1))
    assert isinstance(private, PrivateSegment)
    assert (private.setting, private.tokens) == (setting, 20)
    assert prepared.fingerprint == table.fingerprint


def test_it_is_charged_to_the_conversation_and_the_day(table, ledger, setting):
    gate = Gate(Policy(), ledger, SERVER)
    gate.release(table, turn(0, range(5, 25)), setting, "a")
    gate.release(table, turn(0, range(5, 15)), setting, "b")
    assert spent(ledger, "conversation", "a") == (release_of(table, setting, 20),)
    assert spent(ledger, "conversation", "b") == (release_of(table, setting, 10),)
    with ledger.reading() as entries:
        assert entries.spent("day", entries.day).past == (release_of(table, setting, 30),)


def test_the_same_message_of_a_conversation_is_the_same_bits_at_no_cost(table, ledger, setting):
    gate = Gate(Policy(), ledger, SERVER)
    first = gate.release(table, turn(0, range(5, 25)), setting, "a")
    again = gate.release(table, turn(0, range(5, 25)), NoiseSetting.from_mu(20, 12, 4), "a")
    assert again.segments == first.segments
    longer = gate.release(table, [*turn(0, range(5, 25)), *turn(2, range(30, 40))], setting, "a")
    assert bits(longer)[0] == bits(first)[0]
    assert spent(ledger, "conversation", "a") == (release_of(table, setting, 30),)


def test_a_one_off_repeats_under_the_name_that_it_was_given(table, ledger, setting):
    gate = Gate(Policy(), ledger, SERVER)
    first = gate.release(table, turn(0, range(200)), setting)
    assert bits(gate.release(table, turn(0, range(200)), setting)) != bits(first)
    assert gate.release(table, turn(0, range(200)), setting, first.conversation).segments == first.segments


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(turn(0, range(6, 206)), id="another content"),
        pytest.param(turn(2, range(5, 205)), id="another place in the conversation"),
        pytest.param([*turn(0, range(5, 100)), Span(tuple(range(100, 205)), True, 0)], id="other borders"),
        pytest.param(turn(0, range(5, 205), kind="name", secret=1), id="another kind"),
    ],
)
def test_an_edited_message_is_a_new_release(table, ledger, setting, changed):
    gate = Gate(Policy(), ledger, SERVER)
    first = gate.release(table, turn(0, range(5, 205)), setting, "a")
    edited = gate.release(table, changed, setting, "a")
    assert b"".join(bits(edited)) != b"".join(bits(first))
    (past,) = spent(ledger, "conversation", "a")
    assert past == release_of(table, setting, 400)


def test_no_two_conversations_share_bits_for_equal_text(table, ledger, setting):
    gate = Gate(Policy(), ledger, SERVER)
    first = gate.release(table, turn(0, range(200)), setting, "a")
    assert bits(gate.release(table, turn(0, range(200)), setting, "b")) != bits(first)


def test_an_opening_that_was_drawn_elsewhere_repeats_its_bits_and_counts_for_its_tokens(table, ledger, setting):
    gate = Gate(Policy(), ledger, SERVER)
    opening, rest = turn(0, range(5, 25)), turn(1, range(30, 35))
    first = gate.release(table, opening, setting, "a")
    second = gate.release(table, opening + rest, setting, "b", {0: "a"})
    assert bits(second)[:1] == bits(first)
    assert (second.fresh, spent(ledger, "conversation", "b")) == ((3,), (release_of(table, setting, 5),))
    edited = gate.release(table, turn(0, range(6, 25)) + rest, setting, "b", {0: "a"})
    assert edited.fresh == (1,)
    with ledger.reading() as entries:
        of_token = entries.spent("token", entries.tag("token", "a", 0)).past
        assert sum(one.n_draws for one in of_token) == 2 * release_of(table, setting, 1).n_draws
        assert entries.spent("token", entries.tag("token", "b", 0)).past == ()


def test_a_private_kind_keeps_its_own_noise(table, ledger, setting):
    strong = NoiseSetting.from_mu(1, table.spec.dim, 2)
    spans = [Span((5, 6), True, 0), Span((7,), True, 0, "name", strong, 1)]
    prepared = Gate(Policy(), ledger, SERVER).release(table, spans, setting)
    assert [segment.setting for segment in prepared.segments] == [setting, strong]
    conversation = spent(ledger, "conversation", prepared.conversation)
    assert sorted(conversation, key=lambda one: one.threshold_max) == [
        release_of(table, strong, 1),
        release_of(table, setting, 2),
    ]


def test_a_prompt_without_private_tokens_costs_nothing(table, ledger, setting):
    prepared = Gate(Policy(), ledger, SERVER).release(table, [Span((1, 2), private=False)], setting, "a")
    assert prepared.segments == (PublicSegment((1, 2)),)
    assert spent(ledger, "conversation", "a") == ()


def test_the_charge_is_what_the_certificate_says(table, ledger, setting):
    gate = Gate(Policy(), ledger, SERVER)
    gate.release(table, turn(0, range(20)), setting, "a")
    gate.release(table, [*turn(0, range(20)), *turn(2, range(9))], setting, "a")
    exact = certify([release_of(table, setting, 29)], unit="conversation", tokens=29, delta=1e-5)
    found = certify(spent(ledger, "conversation", "a"), unit="conversation", tokens=29, delta=1e-5)
    assert found == exact


def test_a_server_that_the_policy_does_not_list(ledger):
    with pytest.raises(PrivacyRefusal, match=r"10\.0\.0\.1:1 .*127\.0\.0\.1:50051"):
        Gate(Policy(servers=(SERVER,)), ledger, "10.0.0.1:1")
    with pytest.raises(PrivacyRefusal, match="not among"):
        Gate(Policy(servers=(SERVER,)), ledger, f"{SERVER},10.0.0.1:1")
    Gate(Policy(servers=(SERVER, "10.0.0.1:1")), ledger, f"{SERVER},10.0.0.1:1")


def test_a_codec_that_the_policy_does_not_list(table, other_table, ledger, setting):
    gate = Gate(Policy(codecs=(table.fingerprint,)), ledger, SERVER)
    gate.release(table, turn(0, [5]), setting)
    with pytest.raises(PrivacyRefusal, match=other_table.fingerprint):
        gate.release(other_table, turn(0, [5]), setting)


def test_in_the_clear_only_where_the_policy_allows_it(table, ledger):
    spans = turn(0, [5, 6])
    with pytest.raises(PrivacyRefusal, match=r"2 private tokens .* allow_clear"):
        Gate(Policy(allow_clear=False), ledger, SERVER).public(spans)
    assert Gate(Policy(), ledger, SERVER).public(spans).segments == (PublicSegment((0, 1, 5, 6)),)


def test_weak_noise_only_where_the_policy_allows_it(table, ledger, setting):
    gate = Gate(Policy(allow_weak=False), ledger, SERVER)
    gate.release(table, turn(0, [5]), setting)
    with pytest.raises(PrivacyRefusal, match="mu 20 is 8 above 12"):
        gate.release(table, turn(0, [5]), NoiseSetting.from_mu(20, table.spec.dim, 1))
    narrow = replace(table, spec=replace(table.spec, mu_milli_max=3000))
    with pytest.raises(PrivacyRefusal, match="above 3"):
        gate.release(narrow, turn(0, [5]), setting)


@pytest.mark.parametrize("unit", ["prompt", "conversation", "day"])
@pytest.mark.parametrize("quantity", ["epsilon", "rho"])
def test_a_limit_says_what_is_exceeded_and_what_would_fit(table, ledger, setting, unit, quantity):
    ten = release_of(table, setting, 10)
    bound = epsilon(ten, 1e-5) if quantity == "epsilon" else rho(ten)
    gate = Gate(limits(**{unit: Limit(**{quantity: bound})}), ledger, SERVER)
    with pytest.raises(LimitExceeded, match=f"limits.{unit}.{quantity}") as refused:
        gate.release(table, turn(0, range(20)), setting)
    assert spent(ledger, "day", int(_today(ledger))) == ()
    assert refused.value.bound == bound
    assert refused.value.value > bound
    assert refused.value.most_tokens == 10
    assert refused.value.largest_mu is not None
    weaker = NoiseSetting.from_mu(refused.value.largest_mu * 1.01, table.spec.dim, 1)
    with pytest.raises(LimitExceeded):
        gate.release(table, turn(0, range(20)), weaker)
    gate.release(table, turn(0, range(20)), NoiseSetting.from_mu(refused.value.largest_mu, table.spec.dim, 1))


def _today(ledger: Ledger) -> int:
    with ledger.reading() as entries:
        return entries.day


def test_a_token_limit_counts_one_token_however_long_the_prompt(table, ledger, setting):
    one = release_of(table, setting, 1)
    allowed = limits(token=Limit(epsilon=epsilon(one, 1e-5), rho=rho(one), cap=cap_commonest(one, 0.06)))
    Gate(allowed, ledger, SERVER).release(table, turn(0, range(200)), setting)
    for limit in (Limit(epsilon=0.99 * epsilon(one, 1e-5)), Limit(rho=0.99 * rho(one)), Limit(cap=0.3)):
        with pytest.raises(LimitExceeded, match=r"limits\.token") as refused:
            Gate(limits(token=limit), ledger, SERVER).release(table, turn(0, range(200)), setting)
        assert refused.value.most_tokens == 0


def test_a_secret_adds_up_over_its_occurrences_and_conversations(table, ledger, setting):
    strong = NoiseSetting.from_mu(1, table.spec.dim, 1)
    two = release_of(table, strong, 2)
    policy = replace(
        limits(secret=Limit(rho=rho(two) * 1.001)),
        kinds={"name": Kind("name", "private", mu=1.0, choices=1000)},
    )
    gate = Gate(policy, ledger, SERVER)
    gate.release(table, turn(0, [7], kind="name", setting=strong, secret=1), setting, "a")
    gate.release(table, turn(0, [7], kind="name", setting=strong, secret=1), setting, "b")
    gate.release(table, turn(0, [8], kind="name", setting=strong, secret=1), setting, "c")
    with pytest.raises(LimitExceeded, match=r"limits\.secret\.rho"):
        gate.release(table, turn(0, [7], kind="name", setting=strong, secret=1), setting, "d")
    spelled_otherwise = [
        *turn(0, [9], kind="name", setting=strong, secret=1),
        *turn(1, [10, 11], kind="name", setting=strong, secret=1),
    ]
    with pytest.raises(LimitExceeded, match=r"limits\.secret\.rho"):
        gate.release(table, spelled_otherwise, setting, "e")


def test_a_redraw_of_one_message_is_bounded(table, other_table, ledger, setting):
    gate = Gate(Policy(redraws=0), ledger, SERVER)
    gate.release(table, turn(0, range(20)), setting, "a")
    with pytest.raises(PrivacyRefusal, match=r"message 0 was drawn 1 times .* redraws"):
        gate.release(other_table, turn(0, range(20)), setting, "a")
    assert gate.codec_of("a") == table.fingerprint
    gate.release(other_table, turn(0, range(20)), setting, "b")
    assert (gate.codec_of("b"), gate.codec_of("c")) == (other_table.fingerprint, None)


def test_a_conversation_name_is_checked(table, ledger, setting):
    for name in ("", "x" * 257):
        with pytest.raises(InvalidValue, match="conversation"):
            Gate(Policy(), ledger, SERVER).release(table, turn(0, [5]), setting, name)


def test_what_is_drawn_follows_the_law_of_the_table(table, ledger):
    """A token's bits, drawn through the gate many times, are ones as often as its thresholds say."""
    setting = NoiseSetting.from_mu(20, table.spec.dim, 1)
    prepared = Gate(Policy(), ledger, SERVER).release(table, turn(0, [5] * 4000), setting)
    segment = prepared.segments[1]
    assert isinstance(segment, PrivateSegment)
    expected = setting.thresholds(table.latents[5]) / 2**32
    assert np.abs(segment.levels(table.spec.dim).mean(axis=0) - expected).max() < 0.05
