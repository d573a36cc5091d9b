"""Generation: what the model writes after a prompt, and how close it comes to what really followed.

COH, as the paper defines it: the cosine between the sentence embeddings of the generated and of the true continuation;
prompts are the first 50 words of paragraphs of at least 100; top-p 0.9, temperature 0.7, 200 new tokens. PPL is that of
the generated text under the plain model, after a start marker alone: how fluent it is, not how fitting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from del_codec.encode import encode
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_server import lora
from del_server.evaluation.estimate import Estimate
from del_server.evaluation.markdown import markdown_table
from del_server.evaluation.sentence import SentenceEncoder
from del_server.evaluation.study import Study
from del_server.evaluation.utility import Reader
from del_server.training.text import Ids

PROMPT_WORDS, PARAGRAPH_WORDS, NEW_TOKENS = 50, 100, 200
TOP_P, TEMPERATURE = 0.9, 0.7
_GENERATED = {"cuda": 256, "cpu": 16}
_SCORED = {"cuda": 32, "cpu": 4}


@dataclass(frozen=True, slots=True)
class Passages:
    """Prompts as ids, and the true text that follows each."""

    name: str
    prompts: list[Ids]
    truths: list[str]

    @classmethod
    def of(cls, name: str, texts: Sequence[str], tokenizer: Any, count: int) -> Passages:
        """`count` evenly spaced paragraphs of at least 100 words. Raises InvalidValue if there is none."""
        lines = [line.split() for text in texts for line in text.split("\n")]
        long = [words for words in lines if len(words) >= PARAGRAPH_WORDS]
        if not long:
            raise InvalidValue("text", name, f"has no paragraph of {PARAGRAPH_WORDS} words to prompt with")
        chosen = [long[i] for i in np.unique(np.linspace(0, len(long) - 1, count).astype(int))]
        prompts = [" ".join(words[:PROMPT_WORDS]) for words in chosen]
        ids = [np.asarray(tokenizer(text, add_special_tokens=False).input_ids, dtype=np.int64) for text in prompts]
        return cls(name, ids, [" ".join(words[PROMPT_WORDS:]) for words in chosen])


@dataclass(frozen=True, slots=True)
class GenerationRow:
    """One way to send the prompts. coherence: COH; nll: of the generated text, nats a token; encoder: whose cosine."""

    text: str
    way: str
    coherence: Estimate
    nll: Estimate
    encoder: str

    @property
    def perplexity(self) -> float:
        """PPL of the generated text."""
        return math.exp(self.nll.mean)


class Writer:
    """Writes on after the prompts of passages, as a study's codecs and references read them."""

    def __init__(self, study: Study, tokenizer: Any, encoder: SentenceEncoder, *, seed: int = 0) -> None:
        self._study, self._tokenizer, self._encoder, self._seed = study, tokenizer, encoder, seed

    def rows(self, passages: Passages, grid: Sequence[tuple[float, NoiseSetting]]) -> list[GenerationRow]:
        """The clean prompt, no prompt, and each setting over all codecs."""
        study, readers = self._study, self._study.readers
        clean = [study.judge.embeddings[torch.from_numpy(ids).to(study.device)] for ids in passages.prompts]
        nothing = [each[:0] for each in clean]
        rows = [
            self._row(passages, "clean prompt", [(readers[0].plain, clean)]),
            self._row(passages, "no prompt", [(each.floor, nothing) for each in readers]),
        ]
        for mu, setting in grid:
            sent = [(each.served, self._noised(i, passages, setting)) for i, each in enumerate(readers)]
            rows.append(self._row(passages, f"mu {mu:g}, {setting.bits} bits", sent))
        return rows

    def _noised(self, index: int, passages: Passages, setting: NoiseSetting) -> list[Tensor]:
        """What the decoder of a codec makes of a fresh release of each prompt."""
        codec = self._study.codecs[index]
        decoded, present = codec.decoder.batch([[encode(codec.table, ids, setting)] for ids in passages.prompts])
        return [window[there] for window, there in zip(decoded, present, strict=True)]

    def _row(self, passages: Passages, way: str, read: Sequence[tuple[Reader, list[Tensor]]]) -> GenerationRow:
        truths = self._encoder(passages.truths)
        alike, losses = [], []
        for reader, prompts in read:
            written = self._write(reader, prompts)
            texts = [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
            alike.append((self._encoder(texts) * truths).sum(dim=1).double().cpu().numpy())
            losses.append(self._losses(written))
        return GenerationRow(passages.name, way, Estimate.of(alike), Estimate.of(losses), self._encoder.name)

    @torch.inference_mode()
    def _write(self, reader: Reader, prompts: Sequence[Tensor]) -> list[Tensor]:
        """Ids after each prompt [T, D], up to 200, the end-of-sequence token left out."""
        model, study = self._study.model, self._study
        torch.manual_seed(self._seed)
        lora.use(model, reader.adapter)
        start = study.judge.embeddings[study.attacker.prior.prefix]
        before = start if reader.soft is None else reader.soft.to(start.dtype)
        written: list[Tensor] = []
        size = _GENERATED.get(study.device.type, 16)
        for begin in range(0, len(prompts), size):
            rows = [torch.cat([before, prompt.to(start.dtype)]) for prompt in prompts[begin : begin + size]]
            embeds = pad_sequence(rows, batch_first=True, padding_side="left")
            lengths = torch.tensor([len(row) for row in rows], device=study.device)
            places = torch.arange(embeds.shape[1], device=study.device)
            mask = (places >= embeds.shape[1] - lengths.unsqueeze(1)).long()
            ids = model.generate(
                inputs_embeds=embeds,
                attention_mask=mask,
                do_sample=True,
                top_p=TOP_P,
                top_k=0,
                temperature=TEMPERATURE,
                max_new_tokens=NEW_TOKENS,
                pad_token_id=self._end,
                eos_token_id=self._end,
            )
            # The first end-of-sequence token and what follows it are padding.
            written += [row[(row == self._end).cumsum(dim=0) == 0] for row in ids]
        return written

    @property
    def _end(self) -> int:
        return int(self._tokenizer.convert_tokens_to_ids(self._tokenizer.eos_token))

    @torch.inference_mode()
    def _losses(self, written: Sequence[Tensor]) -> Any:
        """Mean NLL of each text under the plain model after the start marker, [N]; an empty text costs nothing."""
        model, prefix = self._study.model, self._study.attacker.prior.prefix
        lora.use(model, None)
        size = _SCORED.get(self._study.device.type, 4)
        found = []
        for begin in range(0, len(written), size):
            rows = [torch.cat([prefix, ids]) for ids in written[begin : begin + size]]
            ids = pad_sequence(rows, batch_first=True, padding_value=-100)
            logits = model(input_ids=ids.clamp_min(0), attention_mask=(ids >= 0).long(), use_cache=False).logits
            wanted = ids[:, len(prefix) :]
            spoken = logits[:, len(prefix) - 1 : -1].float()
            loss = F.cross_entropy(spoken.flatten(0, 1), wanted.flatten(), reduction="none").view(wanted.shape)
            found.append(loss.sum(dim=1) / (wanted >= 0).sum(dim=1).clamp_min(1))
        return torch.cat(found).double().cpu().numpy()


def generation_table(rows: Sequence[GenerationRow]) -> str:
    """Rows as a Markdown table that names the sentence encoder."""
    encoder = rows[0].encoder if rows else ""
    lines = []
    for row in rows:
        alike = row.coherence
        cells = [row.text, row.way, str(alike), f"{alike.low:.3f} to {alike.high:.3f}", f"{row.perplexity:.1f}"]
        lines.append(cells)
    return markdown_table(["text", "way", f"COH ({encoder})", "95 %", "PPL of the generated text"], lines)
