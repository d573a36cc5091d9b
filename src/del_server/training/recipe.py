"""Recipe: how a codec is trained, as a small JSON file of configuration. Knows nothing of the loop that runs it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from del_codec.errors import ArtifactError, InvalidValue


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training: which parts learn, with or without noise, for which share of the steps.

    parts: of `encoder`, `decoder`, `soft_prompt`. share: of all steps. lr: peak learning rate; the soft prompt's is
    four times that, since its rows are few and far from their optimum.
    """

    parts: tuple[str, ...]
    noise: bool
    share: float
    lr: float

    def __post_init__(self) -> None:
        if not self.parts or not set(self.parts) <= {"encoder", "decoder", "soft_prompt"}:
            raise InvalidValue("parts", self.parts, "use encoder, decoder, soft_prompt")
        if not 0 < self.share <= 1 or not 0 < self.lr < 1:
            raise InvalidValue("share, lr", (self.share, self.lr), "use a share in (0, 1] and a rate in (0, 1)")


@dataclass(frozen=True, slots=True)
class Recipe:
    """encoder, decoder, width, layers, norm_cap: see ProjectionConfig. kl_weight: share of the loss that distils the
    LLM's own distribution on the continuation of the clean prompt; the rest is cross-entropy on the true text.
    attack_weight: nats a token that the loss pays for certainty about a token, where it is sent at attack_mu or less:
    the chance that a guess drawn from the exact posterior names it. It makes near tokens look alike at strong noise.
    attack_context: that attacker's prior is the LLM's own, from the clean tokens before, instead of the unigram.
    gain: spread of the tanh encoder's values before tanh at the start, about their mean; 0 leaves torch's own (.6).
    Rows that start near the corners of the box are told apart from the first step on, and stay where they are."""

    name: str
    encoder: Literal["linear", "tanh"]
    decoder: Literal["linear", "context"]
    phases: tuple[Phase, ...]
    soft_tokens: int
    kl_weight: float
    width: int = 256
    layers: int = 2
    heads: int = 4
    norm_cap: float = 0.0
    attack_weight: float = 0.0
    attack_mu: float = 15.0
    attack_context: bool = False
    gain: float = 0.0

    def __post_init__(self) -> None:
        if not self.attack_weight >= 0 or not self.attack_mu > 0:
            raise InvalidValue(
                "attack_weight", self.attack_weight, "use a weight of 0 or more, and an attack_mu above 0"
            )
        if not 0 <= self.gain <= 100 or (self.gain and self.encoder != "tanh"):
            raise InvalidValue("gain", self.gain, "use 0 to 100, and 0 for an encoder without tanh")
        if not 1 <= self.soft_tokens <= 1024:
            raise InvalidValue("soft_tokens", self.soft_tokens, "use 1 to 1024")
        if not 0 <= self.kl_weight <= 1:
            raise InvalidValue("kl_weight", self.kl_weight, "use a share from 0 to 1")
        if abs(sum(phase.share for phase in self.phases) - 1) > 1e-6:
            raise InvalidValue("phases", [phase.share for phase in self.phases], "their shares must add up to 1")


def names() -> list[str]:
    """Recipes that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def load(name: str) -> Recipe:
    """A recipe by name, or the file of one. Raises InvalidValue or ArtifactError that names what is wrong."""
    path = Path(name) if name.endswith(".json") else _folder() / f"{name}.json"
    if not path.is_file():
        raise InvalidValue("recipe", name, f"use one of {', '.join(names())}, or the path of a recipe's .json file")
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        phases = tuple(Phase(**{**phase, "parts": tuple(phase["parts"])}) for phase in data.pop("phases"))
        return Recipe(name=path.stem, phases=phases, **data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InvalidValue):
            raise
        known = [field.name for field in fields(Recipe)]
        raise ArtifactError(f"{path} is not a recipe (fields: {', '.join(known)}): {error}") from None


def _folder() -> Path:
    return Path(__file__).parent / "recipes"
