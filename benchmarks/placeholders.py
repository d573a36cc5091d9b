"""What a placeholder leaves to guess, and what it costs the answer: measured with the language model itself.

`python -m benchmarks.placeholders [--prompts N] [--values N]`, over the seeded prompts of benchmarks.planted.

Guessed: for each planted secret the model ranks the secret among other values of its kind by the likelihood of the
whole prompt, all else being in the clear; the share that it puts first stands beside chance. The secrets are drawn
apart from their sentences, so this says what kind, place and form tell, not what a person's life would.

Cost: the model's own greedy answer to the clean prompt, in nats a token, when it reads the clean prompt; the prompt
with placeholders and the rest in the clear; with the secrets left out; and no prompt. The share kept is that of the
nats between no prompt and the clean one.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.planted import MAKE, PROMPTS, SEED, Planted, planted
from del_client.message import Message
from del_client.policy import Kind
from del_client.protection.detectors import detectors_for
from del_client.protection.placeholders import Placeholders
from del_client.protection.protector import Protector
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable
from del_server.commands.train import hub_tokenizer
from del_server.models import load_model

MODEL = "smollm2"
ANSWER_TOKENS = 32
BATCH = 16


@dataclass(frozen=True, slots=True)
class Reader:
    """A language model and its tokenizer, with the chat template around a prompt."""

    model: Any
    tokenizer: Any

    def ids(self, prompt: str) -> list[int]:
        """A rendered chat of one message, up to the answer."""
        messages = [{"role": "user", "content": prompt}]
        found: list[int] = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return found

    @torch.inference_mode()
    def log_likelihoods(self, sequences: Sequence[tuple[list[int], int]]) -> list[float]:
        """Of each (ids, start): the log-probability of the ids from `start` on, from those before."""
        found: list[float] = []
        for at in range(0, len(sequences), BATCH):
            part = sequences[at : at + BATCH]
            longest = max(len(ids) for ids, _ in part)
            batch = torch.zeros(len(part), longest, dtype=torch.long)
            for row, (ids, _) in enumerate(part):
                batch[row, : len(ids)] = torch.tensor(ids)
            logits = self.model(batch, use_cache=False).logits
            for row, (ids, start) in enumerate(part):
                spoken = F.log_softmax(logits[row, start - 1 : len(ids) - 1].float(), dim=-1)
                found.append(float(spoken.gather(1, torch.tensor(ids[start:]).unsqueeze(1)).sum()))
        return found

    @torch.inference_mode()
    def answer(self, prompt: str) -> list[int]:
        """The greedy answer's first ids."""
        ids = torch.tensor([self.ids(prompt)])
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=ANSWER_TOKENS
        )
        answered: list[int] = out[0, ids.shape[1] :].tolist()
        return answered


def with_placeholders(prompt: Planted, dim: int) -> str:
    """The prompt as it leaves a device whose policy has every built-in kind."""
    kinds = {name: Kind(name) for name in MAKE}
    protector = Protector(kinds, detectors_for(kinds), dim)
    return protector.protect(Message("user", prompt.text), Placeholders()).content


def without_secrets(prompt: Planted) -> str:
    """The prompt with nothing where its secrets were."""
    text = prompt.text
    for secret in reversed(prompt.secrets):
        text = text[: secret.start] + text[secret.end :]
    return text


def guessed(reader: Reader, prompts: Sequence[Planted], values: int) -> tuple[int, int]:
    """(right, all): secrets that the model puts first among `values` of their kind."""
    rng = random.Random(SEED + 1)
    right = total = 0
    for prompt in prompts:
        for secret in prompt.secrets:
            if secret.loose:
                continue
            truth = prompt.text[secret.start : secret.end]
            others = {MAKE[secret.kind](rng) for _ in range(4 * values)} - {truth}
            candidates = [truth, *sorted(others)[: values - 1]]
            texts = [prompt.text[: secret.start] + each + prompt.text[secret.end :] for each in candidates]
            scores = reader.log_likelihoods([(reader.ids(text), 1) for text in texts])
            right += scores.index(max(scores)) == 0
            total += 1
    return right, total


def costs(reader: Reader, prompts: Sequence[Planted], dim: int) -> dict[str, list[float]]:
    """Nats a token of each prompt's clean answer, by what the model reads."""
    found: dict[str, list[float]] = {name: [] for name in ("clean", "placeholders", "left out", "no prompt")}
    for prompt in prompts:
        answer = reader.answer(prompt.text)
        shown = {
            "clean": prompt.text,
            "placeholders": with_placeholders(prompt, dim),
            "left out": without_secrets(prompt),
            "no prompt": "",
        }
        starts = {name: reader.ids(text) for name, text in shown.items()}
        scores = reader.log_likelihoods([(ids + answer, len(ids)) for ids in starts.values()])
        for name, score in zip(starts, scores, strict=True):
            found[name].append(-score / len(answer))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placeholders")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="(default: %(default)s)")
    parser.add_argument("--values", type=int, default=8, help="among which a secret is guessed (default: %(default)s)")
    arguments = parser.parse_args()
    prompts = planted(arguments.prompts, SEED)
    reader = Reader(load_model(MODEL, "float32", "cpu").eval(), hub_tokenizer(MODEL))
    right, total = guessed(reader, prompts, arguments.values)
    share = right / total
    error = math.sqrt(share * (1 - share) / total)
    print(f"guessed {right} of {total} secrets: {share:.3f} ± {error:.3f}, chance {1 / arguments.values:.3f}")
    nats = costs(reader, prompts, LatentTable.load(codec_folders()[0] / DEVICE_FILE).spec.dim)
    span = statistics.mean(nats["no prompt"]) - statistics.mean(nats["clean"])
    print("| read | nats a token of the clean answer | kept |\n|---|---|---|")
    for name, values in nats.items():
        spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        kept = (statistics.mean(nats["no prompt"]) - statistics.mean(values)) / span
        print(f"| {name} | {statistics.mean(values):.3f} ± {spread:.3f} | {kept:.2f} |")


if __name__ == "__main__":
    main()
