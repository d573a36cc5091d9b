"""The certificate of a secret: all tokens of all its occurrences as one unit."""

from __future__ import annotations

import pytest
from client_fakes import DIM, make_codec

from del_client.policy import Kind
from del_client.prepared import preview
from del_client.prompt import Span
from del_client.report import privacy_report, release_of, secret_reports
from del_codec.accounting import Release, epsilon
from del_codec.caps import cap_uniform
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable

WORDS = NoiseSetting.from_mu(8, DIM, 1)
STRONG = NoiseSetting.from_mu(2, DIM, 1)
SPANS = [
    Span((5, 6), True, 0),
    Span((7, 8, 9), True, 0, "name", STRONG, 1),
    Span((1,), False),
    Span((7, 8), True, 2, "name", STRONG, 1),
    Span((9,) * 4, True, 2, "name", STRONG, 2),
    Span((3,), False, 2, "email"),
    Span((11, 12), True, 2, "phone", STRONG, 1),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatentTable:
    return make_codec(tmp_path_factory.mktemp("codec")).table


def test_a_row_a_kind_for_its_least_protected_secret(table: LatentTable) -> None:
    kinds = {"name": Kind("name", mode="private", mu=2.0, choices=500), "phone": Kind("phone", mode="private", mu=2.0)}
    segments = preview(table, SPANS, WORDS).segments
    name, phone = secret_reports(table, SPANS, segments, kinds, 1e-5, lambda _: 0.5)
    assert (name.kind, name.secrets, name.tokens, name.choices) == ("name", 2, 5, 500)
    assert name.epsilon == epsilon(release_of(table, STRONG, 5), 1e-5)
    assert name.cap == cap_uniform(release_of(table, STRONG, 5), 500)
    assert (phone.choices, phone.cap) == (10, cap_uniform(release_of(table, STRONG, 2), 10))
    assert "names one of its digits" in phone.sentence()
    report = privacy_report(table, segments, 1e-5, None, (name, phone))
    assert report is not None
    assert name.sentence() in report.sentences()


def test_without_choices_the_cap_is_that_of_one_token_from_all_draws(table: LatentTable) -> None:
    seen: list[Release] = []

    def cap(release: Release) -> float:
        seen.append(release)
        return 0.25

    (row,) = secret_reports(table, SPANS[:4], preview(table, SPANS[:4], WORDS).segments, {}, 1e-5, cap)
    assert seen == [release_of(table, STRONG, 5)]
    assert (row.cap, row.choices) == (0.25, None)
    assert "one of its tokens" in row.sentence()


def test_the_stronger_of_the_prompts_noise_and_the_spans_own_holds(table: LatentTable) -> None:
    stronger = NoiseSetting.from_mu(1, DIM, 2)
    for prompt, expected in ((WORDS, STRONG), (stronger, stronger)):
        assert SPANS[1].noise(prompt) == expected
        assert preview(table, SPANS[1:2], prompt).segments[0].setting == expected  # type: ignore[union-attr]
    assert SPANS[0].noise(WORDS) == WORDS
