"""The prompts that detectors are measured with: seeded, and their secrets are what they claim to be."""

from __future__ import annotations

from benchmarks.planted import MAKE, detection, planted
from del_client.protection.check_digits import luhn, mod_97


def test_the_same_seed_gives_the_same_prompts_and_another_others() -> None:
    assert planted(20, 1) == planted(20, 1)
    assert planted(20, 1) != planted(20, 2)


def test_secrets_are_where_and_what_they_claim() -> None:
    found = [
        (one.kind, prompt.text[one.start : one.end], one.loose) for prompt in planted(200, 3) for one in prompt.secrets
    ]
    assert {kind for kind, _, _ in found} == set(MAKE)
    assert all(mod_97(text.replace(" ", "")) for kind, text, loose in found if kind == "iban" and not loose)
    assert all(luhn("".join(filter(str.isdigit, text))) for kind, text, loose in found if kind == "card" and not loose)
    assert any(loose for _, _, loose in found)


def test_what_is_found_is_counted() -> None:
    prompts = planted(60, 4)
    rows = detection(prompts)
    assert sum(row.planted + row.loose for row in rows.values()) == sum(len(prompt.secrets) for prompt in prompts)
    for row in rows.values():
        assert row.whole <= row.planted
        assert row.loose_whole <= row.loose
        assert row.right <= row.ranges
