"""What training sees at each step: a function of (seed, stage, step), within the ranges that were asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_server.training.curriculum import DIALS_PER_BATCH, Curriculum, Lesson
from del_server.training.learner import Dial
from del_server.training.text import ChatSample, Corpus

WORDS = np.arange(1000, 1010)
TURN = ChatSample(np.array([1, 2]), WORDS, np.array([3]), np.array([7, 8, 9, 10, 11]))
TEXT = Corpus(np.arange(500))
CURRICULUM = Curriculum(
    corpus=Corpus(stream=np.arange(500), turns=[TURN]),
    batch=16,
    prompt=40,
    continuation=4,
    dim=8,
    mu_low=2.0,
    mu_high=30.0,
    chat_share=0.4,
    seed=5,
)


def contents(lesson: Lesson) -> list[object]:
    batch = lesson.batch
    arrays = (batch.prompt, batch.private, batch.present, batch.target, batch.scored, lesson.dial_of)
    return [*(array.tolist() for array in arrays), lesson.dials]


def lessons(curriculum: Curriculum, count: int = 200) -> list[Lesson]:
    return [curriculum.lesson(0, step) for step in range(count)]


def is_chat(lesson: Lesson) -> bool:
    return bool((lesson.batch.prompt >= 1000).any())


def test_a_lesson_is_the_same_whenever_it_is_asked_for() -> None:
    again = replace(CURRICULUM)
    for stage, step in [(0, 0), (0, 1), (1, 0), (2, 77)]:
        assert contents(again.lesson(stage, step)) == contents(CURRICULUM.lesson(stage, step))


def test_seed_stage_and_step_each_make_another_lesson() -> None:
    here = contents(CURRICULUM.lesson(1, 1))
    assert contents(replace(CURRICULUM, seed=6).lesson(1, 1)) != here
    assert contents(CURRICULUM.lesson(0, 1)) != here
    assert contents(CURRICULUM.lesson(1, 2)) != here


def test_noise_spans_the_range_and_half_of_it_is_at_one_bit() -> None:
    dials = [dial for lesson in lessons(CURRICULUM) for dial in lesson.dials]
    assert len(dials) == 200 * DIALS_PER_BATCH
    mus = np.array([dial.mu for dial in dials])
    assert (mus.min() >= 2.0, mus.max() <= 30.0) == (True, True)
    assert (mus.min() < 2.5, mus.max() > 28) == (True, True)
    bits = [(dial.levels + 1).bit_length() - 1 for dial in dials]
    assert set(bits) == set(range(1, 9))
    assert bits.count(1) == pytest.approx(len(dials) / 2, rel=0.15)


@pytest.mark.parametrize(("mu", "bits"), [(0.5, 1), (5, 4), (60, 8)])
def test_a_dial_is_the_devices_setting(mu: float, bits: int) -> None:
    dial, setting = Dial.from_mu(mu, 64, bits), NoiseSetting.from_mu(mu, 64, bits)
    assert dial.levels == setting.levels
    assert dial.amplitude == pytest.approx(setting.amplitude, abs=2**-16)


def test_every_position_is_sent_at_one_of_the_dials_and_some_prompts_change_it_once_or_often() -> None:
    changes = []
    for lesson in lessons(CURRICULUM):
        assert lesson.dial_of.shape == lesson.batch.prompt.shape
        assert set(np.unique(lesson.dial_of)) <= set(range(DIALS_PER_BATCH))
        assert max(len(np.unique(row)) for row in lesson.dial_of) <= 2
        changes += (np.diff(lesson.dial_of, axis=1) != 0).sum(axis=1).tolist()
    shares = [np.mean([low <= count <= high for count in changes]) for low, high in ((0, 0), (1, 1), (2, 99))]
    # A quarter changes once and a quarter often; two dials in four are the same one.
    assert shares == pytest.approx([0.62, 0.2, 0.18], abs=0.06)


def test_text_prompts_have_all_lengths_up_to_the_longest() -> None:
    lengths = [lesson.batch.prompt.shape[1] for lesson in lessons(replace(CURRICULUM, corpus=TEXT))]
    assert (min(lengths), max(lengths)) == (16, 40)


def test_some_text_has_a_public_span_and_none_is_wholly_public() -> None:
    private = [row for lesson in lessons(replace(CURRICULUM, corpus=TEXT)) for row in lesson.batch.private]
    with_span = [row for row in private if not row.all()]
    assert len(with_span) / len(private) == pytest.approx(1 / 8, rel=0.3)
    for row in with_span:
        assert row.any()
        assert np.abs(np.diff(row.astype(int))).sum() <= 2


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.0, 0.0), (0.4, 0.25, 0.55), (1.0, 1.0, 1.0)])
def test_the_share_of_chat_is_as_asked(share: float, low: float, high: float) -> None:
    chats = [is_chat(lesson) for lesson in lessons(replace(CURRICULUM, chat_share=share))]
    assert low <= np.mean(chats) <= high


def test_without_text_all_is_chat_and_without_turns_all_is_text() -> None:
    empty = np.zeros(0, dtype=np.int64)
    assert all(map(is_chat, lessons(replace(CURRICULUM, corpus=Corpus(empty, [TURN]), chat_share=0.0))))
    assert not any(map(is_chat, lessons(replace(CURRICULUM, corpus=TEXT, chat_share=1.0))))


def test_only_the_users_words_are_private_in_chat() -> None:
    lesson = replace(CURRICULUM, chat_share=1.0).lesson(0, 0)
    assert (lesson.batch.private == (lesson.batch.prompt >= 1000)).all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mu_low": 0.0}, "mu"),
        ({"mu_low": 31.0}, "mu"),
        ({"mu_low": float("nan")}, "mu"),
        ({"mu_high": 1e4}, "mu"),
        ({"batch": 0}, "batch"),
        ({"prompt": 15}, "prompt"),
        ({"continuation": 0}, "batch, prompt"),
        ({"chat_share": -0.1}, "chat_share"),
        ({"chat_share": 1.1}, "chat_share"),
        ({"chat_share": float("nan")}, "chat_share"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 31}, "seed"),
        ({"corpus": Corpus(np.arange(43))}, "text is '43 tokens': give at least 44 tokens of text"),
        ({"corpus": Corpus(np.arange(0))}, "text is 'nothing'"),
    ],
)
def test_what_can_not_be_taught_is_refused_before_the_first_step(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidValue, match=named):
        replace(CURRICULUM, **changes)


def test_some_text_has_a_placeholder_in_the_clear() -> None:
    mark = np.array([901, 902, 903])
    marked = 0
    for lesson in lessons(replace(CURRICULUM, corpus=replace(TEXT, placeholders=[mark]))):
        for prompt, private in zip(lesson.batch.prompt, lesson.batch.private, strict=True):
            (places,) = np.nonzero(prompt > 900)
            if len(places):
                marked += 1
                assert prompt[places].tolist() == mark.tolist()
                assert np.ptp(places) == 2
                assert not private[places].any()
    assert marked / (200 * 16) == pytest.approx(1 / 8, rel=0.3)
