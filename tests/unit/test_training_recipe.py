"""Recipes: small JSON files, shipped or the user's own, read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from del_codec.errors import ArtifactError, InvalidValue
from del_server.training import recipe as recipes

OWN: dict[str, Any] = {
    "encoder": "tanh",
    "decoder": "context",
    "soft_tokens": 4,
    "kl_weight": 0.5,
    "phases": [
        {"parts": ["encoder", "decoder"], "noise": False, "share": 0.25, "lr": 0.01},
        {"parts": ["soft_prompt"], "noise": True, "share": 0.75, "lr": 0.01},
    ],
}


def write(folder: Path, **changes: Any) -> str:
    path = folder / "own.json"
    path.write_text(json.dumps({name: value for name, value in {**OWN, **changes}.items() if value is not None}))
    return str(path)


def phase(**changes: Any) -> list[dict[str, Any]]:
    return [{"parts": ["encoder"], "noise": True, "share": 1.0, "lr": 0.01, **changes}]


def test_the_shipped_recipes() -> None:
    assert {"joint", "paper"} <= set(recipes.names())
    for name in recipes.names():
        assert recipes.load(name).name == name


def test_the_joint_recipe_learns_everything_through_the_noise() -> None:
    joint = recipes.load("joint")
    assert (joint.encoder, joint.decoder) == ("tanh", "context")
    assert all(phase.noise for phase in joint.phases)
    assert {part for phase in joint.phases for part in phase.parts} == {"encoder", "decoder", "soft_prompt"}


def test_the_papers_recipe_is_a_linear_pair_without_noise_then_a_soft_prompt_with_it() -> None:
    paper = recipes.load("paper")
    assert (paper.encoder, paper.decoder, paper.soft_tokens, paper.kl_weight) == ("linear", "linear", 100, 0.0)
    assert [(phase.parts, phase.noise) for phase in paper.phases] == [
        (("encoder", "decoder"), False),
        (("soft_prompt",), True),
    ]
    assert paper.norm_cap > 0


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    own = recipes.load(write(tmp_path))
    assert (own.name, own.soft_tokens, len(own.phases)) == ("own", 4, 2)
    assert own.phases[0] == recipes.Phase(("encoder", "decoder"), False, 0.25, 0.01)


@pytest.mark.parametrize("name", ["nosuch", "", "missing.json"])
def test_an_unknown_recipe_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidValue, match=r"use one of .*joint.*paper"):
        recipes.load(name)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"soft_tokens": 0}, "soft_tokens"),
        ({"soft_tokens": 1025}, "soft_tokens"),
        ({"kl_weight": -0.1}, "kl_weight"),
        ({"kl_weight": 1.1}, "kl_weight"),
        ({"attack_weight": -1}, "attack_weight"),
        ({"attack_mu": 0}, "attack_mu"),
        ({"phases": []}, "phases"),
        ({"phases": phase(share=0.5)}, "phases"),
        ({"phases": phase(share=0)}, "share"),
        ({"phases": phase(lr=0)}, "lr"),
        ({"phases": phase(lr=1)}, "lr"),
        ({"phases": phase(parts=[])}, "parts"),
        ({"phases": phase(parts=["llm"])}, "parts"),
    ],
)
def test_a_value_out_of_range_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidValue, match=named):
        recipes.load(write(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"phases": None},
        {"encoder": None},
        {"colour": "red"},
        {"soft_tokens": "four"},
        {"phases": 5},
        {"phases": [{"parts": ["encoder"]}]},
        {"phases": phase(more=1)},
    ],
)
def test_a_file_that_is_no_recipe_is_named_with_the_fields_of_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"own\.json is not a recipe \(fields: name, encoder"):
        recipes.load(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null"])
def test_a_file_of_something_else_is_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match="is not a recipe"):
        recipes.load(str(path))
