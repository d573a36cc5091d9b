"""A trained attack: a small bidirectional transformer that reads a whole noised prompt and names its tokens.

Its scores are the exact log-likelihood of the levels of each token, plus the unigram prior, plus what it has learned
from the other positions: a correction through the embedding table, and a share of what the language model expects when
it reads the posterior means of the prompt. All of that is zero at the start: an untrained attack is per-token MAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from del_codec.errors import InvalidValue
from del_codec.projection import NOISE_FEATURES, ContextLayer
from del_server import lora
from del_server.evaluation.channel import LatentChannel

_CHUNK = {"cuda": 8192, "cpu": 512}


@dataclass(frozen=True, slots=True)
class InversionConfig:
    """Size and training of the attack. hidden_share: of positions whose own levels are withheld in training, so that
    the attack can also guess a token from the others alone."""

    width: int = 384
    layers: int = 4
    heads: int = 6
    steps: int = 600
    batch: int = 64
    rate: float = 1e-3
    hidden_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % (2 * self.heads):
            raise InvalidValue("width", self.width, f"must be a multiple of twice the heads ({self.heads})")
        for name in ("layers", "steps", "batch"):
            if getattr(self, name) < 1:
                raise InvalidValue(name, getattr(self, name), "use at least 1")


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """B windows as the attack reads them.

    latents [B, T, d]; mean [B, T, D], posterior mean embeddings; expected, heard [B, T, D]: the language model's last
    hidden states before and at each position when it reads `mean`; noise [B, T, 3]; shown [B, T] bool, False where the
    token's own levels are withheld.
    """

    latents: Tensor
    mean: Tensor
    expected: Tensor
    heard: Tensor
    noise: Tensor
    shown: Tensor


class InversionModel(nn.Module):
    """The attack's network, for one language model and one latent width."""

    def __init__(self, config: InversionConfig, dim: int, model: Any, embeddings: Tensor, log_prior: Tensor) -> None:
        super().__init__()
        self.config = config
        self._language_model = (model,)  # in a tuple, so that its weights are not this module's
        values = embeddings.float()
        self.rms = float(values.pow(2).mean().sqrt())
        self.register_buffer("embeddings", values, persistent=False)
        self.register_buffer("targets", values / (self.rms * values.shape[1] ** 0.5), persistent=False)
        self.register_buffer("log_prior", log_prior.float(), persistent=False)
        self.embeddings: Tensor
        self.targets: Tensor
        self.log_prior: Tensor
        wide, width = values.shape[1], config.width
        hidden = model.get_output_embeddings().weight.shape[1]
        self.read_mean = nn.Linear(wide, width)
        self.read_latent = nn.Linear(dim, width)
        self.read_model = nn.Linear(2 * hidden, width)
        self.read_noise = nn.Sequential(nn.Linear(NOISE_FEATURES + 1, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(ContextLayer(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.write = nn.Linear(width, wide)
        self.trust = nn.Linear(width, 1)
        for last in (self.write, self.trust):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @property
    def language_model(self) -> Any:
        """The frozen model that reads along."""
        return self._language_model[0]

    @torch.no_grad()
    def read(self, channel: LatentChannel, levels: Tensor, shown: Tensor, prefix: Tensor) -> Reading:
        """What the attack reads of levels [B, T, d]; prefix: public ids [P] before the prompt, at least one."""
        latents = channel.latents(levels) * shown.unsqueeze(-1)
        weights = torch.softmax(self.token_scores(channel, levels, shown).flatten(0, 1), dim=-1)
        values = self.embeddings.to(torch.bfloat16) if weights.is_cuda else self.embeddings
        mean = (weights.to(values.dtype) @ values).float().view(*levels.shape[:2], -1)
        states = self._hidden_states(mean, prefix)
        noise = channel.noise(levels) * shown.unsqueeze(-1)
        return Reading(latents, mean, states[:, :-1], states[:, 1:], noise, shown)

    def token_scores(self, channel: LatentChannel, levels: Tensor, shown: Tensor) -> Tensor:
        """Log-likelihood (0 where withheld) plus log prior, [..., V], of levels [..., d]."""
        likelihood = channel.log_likelihood(levels.flatten(0, -2)).view(*levels.shape[:-1], -1)
        scores: Tensor = likelihood * shown.unsqueeze(-1) + self.log_prior
        return scores

    def _hidden_states(self, mean: Tensor, prefix: Tensor) -> Tensor:
        """Last hidden states [B, T + 1, D] from the prefix's last position on."""
        start = self.embeddings[prefix].expand(len(mean), -1, -1)
        read = torch.cat([start, mean], dim=1).to(self.language_model.dtype)
        out = self.language_model.base_model(inputs_embeds=read, use_cache=False)
        states: Tensor = out.last_hidden_state[:, len(prefix) - 1 :].float()
        return states

    def forward(self, reading: Reading) -> Tensor:
        """Hidden states [B, T, width] of what the attack makes of the whole prompt."""
        scale = torch.rsqrt(1 / 3 + reading.latents.pow(2).mean(-1, keepdim=True))
        conditions = torch.cat([reading.noise, reading.shown.unsqueeze(-1).float()], dim=-1)
        heard = F.layer_norm(torch.cat([reading.expected, reading.heard], dim=-1), (2 * reading.heard.shape[-1],))
        x = self.read_mean(reading.mean / self.rms) + self.read_latent(reading.latents * scale)
        x = x + self.read_model(heard) + self.read_noise(conditions)
        present = torch.ones_like(reading.shown)
        for layer in self.layers:
            x = layer(x, present)
        normed: Tensor = self.norm(x)
        return normed

    def learned(self, hidden: Tensor, expected: Tensor) -> Tensor:
        """What context adds to the scores, [..., V], from hidden states [..., width] and expected [..., D]."""
        with torch.no_grad():
            head = self.language_model.get_output_embeddings()
            spoken = F.log_softmax(head(expected.to(head.weight.dtype)).float(), dim=-1) - self.log_prior
        added: Tensor = self.write(hidden) @ self.targets.T + self.trust(hidden) * spoken
        return added


def train_inversion(
    attack: InversionModel, channels: Sequence[LatentChannel], stream: Tensor, length: int, prefix: Tensor
) -> list[float]:
    """Train on random windows of public text [N] of ids, `length` tokens each, over all channels in turn.

    Returns the loss of each step, nats a token. Raises InvalidValue for a text that is too short.
    """
    if len(stream) < length:
        raise InvalidValue("attack text", f"{len(stream)} tokens", f"give at least {length} tokens of public text")
    device = attack.log_prior.device
    lora.use(attack.language_model, None)
    precision = torch.get_float32_matmul_precision()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(attack.config.seed)
        torch.set_float32_matmul_precision("high")
        try:
            losses = _descend(attack, channels, stream, length, prefix)
        except torch.OutOfMemoryError:
            raise InvalidValue("attack-batch", attack.config.batch, "more than memory holds: lower it") from None
        finally:
            torch.set_float32_matmul_precision(precision)
    return [float(loss) for loss in losses.tolist()]


def _descend(
    attack: InversionModel, channels: Sequence[LatentChannel], stream: Tensor, length: int, prefix: Tensor
) -> Tensor:
    """All steps; their losses [steps], still on the device, so that no step waits for another."""
    config, device = attack.config, stream.device
    optimiser = torch.optim.AdamW(attack.parameters(), lr=config.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.rate, total_steps=config.steps + 1, pct_start=0.1)
    generator = torch.Generator(device=device).manual_seed(config.seed)
    places = torch.arange(length, device=device)
    losses = []
    for step in range(config.steps):
        starts = torch.randint(len(stream) - length + 1, (config.batch, 1), generator=generator, device=device)
        ids = stream[starts + places]
        shown = torch.rand(ids.shape, generator=generator, device=device) >= config.hidden_share
        loss = _loss(attack, channels[step % len(channels)], ids, shown, prefix)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(attack.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def _loss(attack: InversionModel, channel: LatentChannel, ids: Tensor, shown: Tensor, prefix: Tensor) -> Tensor:
    with torch.no_grad():
        levels = channel.rehearse(ids)
        reading = attack.read(channel, levels, shown, prefix)
        known = attack.token_scores(channel, levels, shown)
    scores = known + attack.learned(attack(reading), reading.expected)
    return F.cross_entropy(scores.flatten(0, 1), ids.flatten())


@dataclass(frozen=True, slots=True, eq=False)
class InversionEvidence:
    """The trained attack's scores; the prior is in them. shown: [B, T] bool, False where own levels are withheld."""

    attack: InversionModel
    channel: LatentChannel
    levels: Tensor
    shown: Tensor
    hidden: Tensor
    expected: Tensor

    @classmethod
    @torch.inference_mode()
    def of(
        cls,
        attack: InversionModel,
        channel: LatentChannel,
        levels: Tensor,
        prefix: Tensor,
        shown: Tensor | None = None,
    ) -> InversionEvidence:
        """Read windows of levels [B, T, d], all shown if nothing is said."""
        shown = torch.ones(levels.shape[:2], dtype=torch.bool, device=levels.device) if shown is None else shown
        size = max(1, _CHUNK.get(levels.device.type, 512) // levels.shape[1])
        hidden, expected = [], []
        for some, seen in zip(torch.split(levels, size), torch.split(shown, size), strict=True):
            reading = attack.read(channel, some, seen, prefix)
            hidden.append(attack(reading))
            expected.append(reading.expected)
        return cls(attack, channel, levels, shown, torch.cat(hidden), torch.cat(expected))

    @property
    def windows(self) -> int:
        """B."""
        return len(self.levels)

    @property
    def length(self) -> int:
        """T."""
        return self.levels.shape[1]

    @torch.inference_mode()
    def at(self, position: int) -> Tensor:
        """[B, V]."""
        known = self.attack.token_scores(self.channel, self.levels[:, position], self.shown[:, position])
        return known + self.attack.learned(self.hidden[:, position], self.expected[:, position])

    def part(self, start: int, stop: int) -> InversionEvidence:
        """Some of the windows."""
        fields = ("levels", "shown", "hidden", "expected")
        return replace(self, **{name: getattr(self, name)[start:stop] for name in fields})
