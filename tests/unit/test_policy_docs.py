"""docs/policy.md: its example is a policy, and its table names every key."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

from del_client.policy import Policy

TEXT = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()


def test_its_examples_are_policies():
    examples = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert examples
    for example in examples:
        assert Policy.from_toml(example) != Policy()


def test_it_names_every_key_with_its_default():
    shown = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", TEXT, re.MULTILINE))
    for key in fields(Policy):
        if key.name in ("servers", "codecs"):
            assert shown[key.name] == "any"
        elif key.name not in ("limits", "kinds"):
            assert tomllib.loads(f"x = {shown[key.name]}")["x"] == getattr(Policy(), key.name), key.name
