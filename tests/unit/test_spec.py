"""CodecSpec: canonical JSON that a device reads from an untrusted server, field by field."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from small_table import small_spec

from del_codec.errors import InvalidValue
from del_codec.spec import MAX_SPEC_CHARS, CodecSpec, Measured

SPEC = replace(small_spec(), measured=(Measured(5000, 1, 100, -20), Measured(10_000, 4, 1000, 0)))


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(SPEC.to_json()), **fields})


def without(*names: str) -> str:
    return json.dumps({name: value for name, value in json.loads(SPEC.to_json()).items() if name not in names})


def row(**fields: Any) -> str:
    return changed(measured=[{"mu_milli": 5000, "bits": 1, "attack_success": 0, "retained": 0, **fields}])


def test_a_spec_survives_json() -> None:
    assert CodecSpec.from_json(SPEC.to_json()) == SPEC


def test_json_is_canonical_whatever_the_order_it_was_read_in() -> None:
    shuffled = dict(reversed(json.loads(SPEC.to_json()).items()))
    assert CodecSpec.from_json(json.dumps(shuffled, indent=2)).to_json() == SPEC.to_json()


def test_measurements_and_a_chat_template_may_be_absent() -> None:
    spec = CodecSpec.from_json(without("measured"))
    assert (spec.measured, spec.chat_template_sha256) == ((), "")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("dim", [0, -1, 1025, 4.0, "4", True, None]),
        ("vocabulary", [1, (1 << 20) + 1, 24.0, None]),
        ("embedding_width", [0, (1 << 20) + 1, "6"]),
        ("mu_milli_min", [0, -5, 10_000_001, 1.5]),
        ("mu_milli_max", [999, 10_000_001, None]),
        ("model", ["", "m" * 257, 5, None]),
        ("model_sha256", ["", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n", 5, None]),
        ("tokenizer_sha256", ["", "g" * 64]),
        ("chat_template_sha256", ["0", None, 0]),
        ("measured", [{}, "rows", None, [None] * 1025]),
    ],
)
def test_a_field_out_of_range_is_named(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidValue, match=f"^{field} is "):
            CodecSpec.from_json(changed(**{field: value}))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("mu_milli", [0, 10_000_001, 5.0, None]),
        ("bits", [0, 9, True]),
        ("attack_success", [-1, 1001, 0.5]),
        ("retained", [-1_000_001, 1_000_001, "0"]),
    ],
)
def test_a_measurement_out_of_range_is_named(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidValue, match=f"^measured.{field} is "):
            CodecSpec.from_json(row(**{field: value}))


def test_a_measurement_out_of_range_can_not_be_made_either() -> None:
    with pytest.raises(InvalidValue, match=r"measured.mu_milli is 20000000"):
        Measured(20_000_000, 1, 0, 0)


@pytest.mark.parametrize("text", [changed(extra=1), without("dim"), row(extra=1), changed(measured=[{"bits": 1}])])
def test_other_keys_are_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="must have the keys"):
        CodecSpec.from_json(text)


@pytest.mark.parametrize("text", [changed(format="del-codec/2"), without("format"), "[]", "5", "null", '"spec"'])
def test_another_format_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="expected del-codec/1"):
        CodecSpec.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 50_000, "9" * 5000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="must be JSON"):
        CodecSpec.from_json(text)


def test_a_huge_spec_is_not_parsed() -> None:
    with pytest.raises(InvalidValue, match=f"at most {MAX_SPEC_CHARS}"):
        CodecSpec.from_json(changed(model="m" * MAX_SPEC_CHARS))
