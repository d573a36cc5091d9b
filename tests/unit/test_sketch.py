"""A sketch draws each token of a draft once, attacks what it drew, and forgets what is gone."""

from __future__ import annotations

import numpy as np
import pytest
from small_table import small_table

from del_client.sketch import Attacks, Sketch
from del_codec.attacks import map_guess
from del_codec.bitpack import unpack
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting

TABLE = small_table(dim=64)
NEAR, FAR = (NoiseSetting.from_mu(mu, TABLE.spec.dim, bits) for mu, bits in ((8, 1), (2, 3)))


def sketch() -> Sketch:
    return Sketch(Attacks(TABLE, TABLE.prior))


def test_what_stays_in_the_draft_keeps_its_bits() -> None:
    draft = sketch()
    first = draft.look([(3, NEAR), (4, NEAR), (3, NEAR)])
    assert first[0].bits != first[2].bits  # the same token twice is drawn twice
    after = draft.look([(7, NEAR), (3, NEAR), (4, NEAR), (3, NEAR), (4, NEAR)])
    assert after[1:4] == first
    assert after[4].bits != first[1].bits


def test_another_noise_is_another_draw() -> None:
    draft = sketch()
    near = draft.look([(3, NEAR)])
    (far,) = draft.look([(3, FAR)])
    assert (len(near[0].bits), len(far.bits)) == (8, 24)


def test_what_is_gone_is_forgotten() -> None:
    draft = sketch()
    first = draft.look([(3, NEAR), (4, NEAR)])
    draft.look([])
    assert draft.look([(3, NEAR), (4, NEAR)]) != first


def test_drafts_share_no_bits() -> None:
    attacks = Attacks(TABLE, TABLE.prior)
    tokens = [(3, NEAR)] * 4
    assert Sketch(attacks).look(tokens) != Sketch(attacks).look(tokens)


@pytest.mark.parametrize("setting", [NEAR, FAR])
def test_the_attack_is_the_best_on_the_very_bits_that_are_shown(setting: NoiseSetting) -> None:
    looks = sketch().look([(token, setting) for token in range(20)])
    levels = np.stack([unpack(look.bits, TABLE.spec.dim, setting.bits) for look in looks])
    guesses, posteriors = map_guess(TABLE, levels, setting, TABLE.prior)
    assert [look.guess for look in looks] == guesses.tolist()
    assert [look.posterior for look in looks] == pytest.approx(posteriors.tolist(), rel=1e-4)


def test_few_settings_attacks_are_kept_ready() -> None:
    attacks = Attacks(TABLE, TABLE.prior)
    settings = [NoiseSetting.from_mu(mu, TABLE.spec.dim, 1) for mu in (5, 6, 7, 8)]
    ready = [attacks.at(setting) for setting in settings]
    assert attacks.at(settings[-1]) is ready[-1]
    assert attacks.at(settings[0]) is not ready[0]


def test_an_unknown_token_is_refused_by_its_number() -> None:
    with pytest.raises(InvalidValue, match="token_id is 24"):
        sketch().look([(24, NEAR)])
