"""An SnD-style rival: the device denoises what the model answers (Split-N-Denoise, Mai et al., arXiv 2310.09130).

The device adds metric noise to every embedding it sends, prompt and continuation alike; the server runs the model's
layers and sends back their last hidden states; a small transformer on the device, which knows the clean embeddings and
the noise, turns them into clean ones, and the device applies the model's head. The source does so for sentence
embeddings; here it is causal and for every token, so that it can continue a text. It costs the device the embedding
matrix, the head, a trained network and a round trip a token: beside DEL's device that is another machine.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from del_codec.errors import InvalidValue
from del_server import lora
from del_server.evaluation.rivals import MetricPrivacy
from del_server.evaluation.utility import Losses

_CHUNK = {"cuda": 64, "cpu": 8}


class Denoiser(nn.Module):
    """Noised hidden states, clean embeddings and noise, each [B, T, D], to hidden states [B, T, D], causally."""

    def __init__(self, width: int, hidden: int, *, inner: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.read = nn.Linear(2 * width + hidden, inner)
        layer = nn.TransformerEncoderLayer(inner, 4, 2 * inner, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.keep = nn.Linear(inner, 1)
        self.write = nn.Linear(inner, hidden)
        for last in (self.keep, self.write):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, hidden: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
        """What the hidden states would have been without noise."""
        mask = nn.Transformer.generate_square_subsequent_mask(clean.shape[1], device=clean.device)
        x = self.layers(self.read(torch.cat([hidden, clean, noise], dim=-1)), mask=mask, is_causal=True)
        cleaned: Tensor = hidden * (1 + self.keep(x)) + self.write(x)
        return cleaned


class DenoisedModel(MetricPrivacy):
    """A model behind metric noise, with the denoiser that a device would have. The server sees what metric-DP sends."""

    def __init__(self, model: Any, embeddings: Tensor, eta: float) -> None:
        super().__init__(embeddings, eta, snap=False)
        self._model = model
        self.name = f"SnD-style eta {eta:g} (device: embeddings, head, denoiser)"
        hidden = model.get_output_embeddings().weight.shape[1]
        self._denoiser = Denoiser(embeddings.shape[1], hidden).to(embeddings.device)

    def train(self, stream: Tensor, length: int, *, steps: int, batch: int, rate: float = 1e-3, seed: int = 0) -> None:
        """On random windows of public text [N] of ids, by the next token. Raises InvalidValue for too short a text."""
        if len(stream) < length:
            raise InvalidValue("attack text", f"{len(stream)} tokens", f"give at least {length} tokens of public text")
        torch.manual_seed(seed)
        optimiser = torch.optim.AdamW(self._denoiser.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps + 1, pct_start=0.1)
        places = torch.arange(length, device=stream.device)
        for _ in range(steps):
            starts = torch.randint(len(stream) - length + 1, (batch, 1), device=stream.device)
            loss = self._token_losses(stream[starts + places]).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._denoiser.parameters(), 1.0)
            optimiser.step()
            schedule.step()

    @torch.no_grad()
    def losses(self, prompt: Tensor, target: Tensor) -> Losses:
        """Mean NLL in nats a token of each continuation [B, C] of prompts [B, T], ids."""
        whole = torch.cat([prompt, target], dim=1)
        size = _CHUNK.get(whole.device.type, 8)
        parts = [self._token_losses(some)[:, prompt.shape[1] - 1 :].mean(dim=1) for some in torch.split(whole, size)]
        found: Losses = torch.cat(parts).double().cpu().numpy()
        return found

    def _token_losses(self, ids: Tensor) -> Tensor:
        """NLL of every token but the first, [B, T - 1]."""
        with torch.no_grad():
            clean = self._values[ids]
            sent = self.rehearse(ids)
            lora.use(self._model, None)
            out = self._model.base_model(inputs_embeds=sent.to(self._model.dtype), use_cache=False)
        cleaned = self._denoiser(out.last_hidden_state[:, :-1].float(), clean[:, :-1], (sent - clean)[:, :-1])
        head = self._model.get_output_embeddings()
        logits = head(cleaned.to(head.weight.dtype)).float()
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)
