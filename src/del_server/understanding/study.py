"""How well questions about private fields are answered as served, beside what the clean model and no model can do.

Fields are encoded as a device encodes them (the baked table, the operating system's randomness), decoded as the server
decodes them, put behind the task's soft prompt, and labels ranked by their likelihood; only that many prompts go
through at once. Codecs that were trained alike with other seeds are measured together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from del_codec.encode import encode
from del_codec.errors import ArtifactError, InvalidValue
from del_codec.frame import PublicSegment, Segment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable
from del_codec.task import Task
from del_server.codec import ServedCodec
from del_server.evaluation.estimate import Estimate
from del_server.tasks import task_folder
from del_server.training.objective import Judge
from del_server.training.text import Ids
from del_server.understanding.questions import Questions
from del_server.understanding.ranking import label_scores

CLEAN_FILE = "clean.safetensors"
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """One way to answer. mu, bits: 0 where nothing is noised. auc: of the second label against the first, where there
    are two. kept: of the clean model's accuracy above that of always naming the commonest label; both None where they
    say nothing."""

    method: str
    mu: float
    bits: int
    accuracy: Estimate
    auc: Estimate | None
    kept: Estimate | None


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """right: share of draws answered right, for each codec and question [S, N]; auc: see `auc_values`, [S, N]."""

    right: Values
    auc: Values | None

    @classmethod
    def of(cls, scores: Values, truth: Ids) -> Answers:
        """From scores [S, R, N, K] of R draws."""
        right = (scores.argmax(axis=-1) == truth).mean(axis=1)
        if scores.shape[-1] != 2 or len(np.unique(truth)) < 2:
            return cls(right, None)
        difference = scores[..., 1] - scores[..., 0]
        values = [np.mean([auc_values(draw, truth) for draw in draws], axis=0) for draws in difference]
        return cls(right, np.array(values))


class TaskStudy:
    """One task on one set of questions. Raises InvalidValue for a codec without the task, ArtifactError for damage."""

    def __init__(self, model: Any, folders: Sequence[Path], name: str, *, batch: int, draws: int) -> None:
        # cuDNN's attention plans anew for each prompt length.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._judge = Judge(model)
        self._codecs = [ServedCodec.load(folder, model) for folder in folders]
        self._name, self._batch, self._draws = name, batch, draws
        for folder, codec in zip(folders, self._codecs, strict=True):
            if name not in codec.tasks:
                raise InvalidValue("task", name, f"{folder} has {list(codec.tasks)}: train it with train-task")
        self.task: Task = self._codecs[0].tasks[name].task
        if any(codec.tasks[name].task != self.task for codec in self._codecs):
            raise InvalidValue("codec", [str(folder) for folder in folders], f"their tasks {name} are not the same")
        self._clean = [_read_clean(task_folder(folder, name) / CLEAN_FILE, self._judge) for folder in folders]

    def zero_shot(self, questions: Questions) -> Answers:
        """The clean model as it is, asked with the same words."""
        return Answers.of(self._plain(questions, None)[None, None], questions.answers)

    def ceiling(self, questions: Questions) -> Answers:
        """The clean model behind the soft prompt that was trained for clean prompts."""
        scores = np.stack([self._plain(questions, soft) for soft in self._clean])
        return Answers.of(scores[:, None], questions.answers)

    def served(self, questions: Questions, mu: float, bits: int) -> Answers:
        """What devices are answered at a setting."""
        return self._noised(questions, mu, bits, self._name)

    def served_without(self, questions: Questions, mu: float, bits: int) -> Answers:
        """The same behind the codec's own soft prompt: no training for the task at all."""
        return self._noised(questions, mu, bits, "")

    def _noised(self, questions: Questions, mu: float, bits: int, task: str) -> Answers:
        scores = []
        for codec in self._codecs:
            setting = NoiseSetting.from_mu(mu, codec.table.spec.dim, bits)
            prompts = partial(_released, codec, questions, setting)
            soft = codec.soft_prompt_of(task)
            scores.append([self._scores(questions, soft, prompts, codec.adapter) for _ in range(self._draws)])
        return Answers.of(np.array(scores), questions.answers)

    def _plain(self, questions: Questions, soft: Tensor | None) -> Values:
        device = self._judge.embeddings.device

        def prompts(chosen: Ids) -> tuple[Tensor, Tensor]:
            batch = questions.batch(chosen)
            ids, present = (torch.from_numpy(a).to(device) for a in (batch.prompt, batch.present))
            return self._judge.embeddings[ids], present

        return self._scores(questions, soft, prompts, None)

    @torch.inference_mode()
    def _scores(
        self,
        questions: Questions,
        soft: Tensor | None,
        prompts: Callable[[Ids], tuple[Tensor, Tensor]],
        adapter: str | None,
    ) -> Values:
        """Log-likelihoods [N, K]. Prompts of like length go together, so that little is padding."""
        order = np.argsort([len(ids) for ids in questions.prompts], kind="stable")
        parts = []
        for start in range(0, len(order), self._batch):
            prompt, present = prompts(order[start : start + self._batch])
            parts.append(label_scores(self._judge, soft, prompt, present, questions.candidates, adapter))
        scores = torch.cat(parts).double().cpu().numpy()
        return np.asarray(scores[np.argsort(order)])


def _released(codec: ServedCodec, questions: Questions, setting: NoiseSetting, chosen: Ids) -> tuple[Tensor, Tensor]:
    """Embeddings [B, T, D] of fresh releases of the chosen questions, as the server decodes them, and what is there."""
    return codec.decoder.batch([segments(codec.table, questions, int(index), setting) for index in chosen])


def segments(table: LatentTable, questions: Questions, index: int, setting: NoiseSetting) -> list[Segment]:
    """A question as a device sends it: public ids, and a fresh release of each private stretch."""
    ids, private = questions.prompts[index], questions.private[index]
    borders = [0, *(np.flatnonzero(np.diff(private)) + 1).tolist(), len(ids)]
    return [
        encode(table, ids[start:end], setting) if private[start] else PublicSegment(tuple(ids[start:end].tolist()))
        for start, end in itertools.pairwise(borders)
    ]


def auc_values(scores: Values, truth: Ids) -> Values:
    """[N] values whose mean is the area under the ROC curve of scores [N] for truth 1 against 0, and whose spread gives
    its standard error: the placement values of DeLong, DeLong and Clarke-Pearson (1988). Ties count half."""
    positive = truth == 1
    high, low = scores[positive], scores[~positive]
    placed = np.empty(len(scores))
    placed[positive] = _share_below(np.sort(low), high)
    placed[~positive] = 1 - _share_below(np.sort(high), low)
    area = placed[positive].mean()
    weight = np.where(positive, len(scores) / len(high), len(scores) / len(low))
    return np.asarray(area + weight * (placed - area))


def _share_below(ordered: Values, values: Values) -> Values:
    """For each value the share of `ordered` that lies below it, ties by half."""
    below, upto = np.searchsorted(ordered, values, side="left"), np.searchsorted(ordered, values, side="right")
    return np.asarray((below + upto) / (2 * len(ordered)))


def _read_clean(path: Path, judge: Judge) -> Tensor:
    try:
        soft: Tensor = safetensors.torch.load_file(path)["clean"]
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path} holds no soft prompt for clean prompts: {error}; train the task again") from None
    return soft.to(judge.embeddings)


def rows(study: TaskStudy, questions: Questions, settings: Sequence[tuple[float, int]], name: str) -> Iterator[Row]:
    """All that is measured of one family of codecs, called `name`."""
    truth = questions.answers
    commonest = (truth == np.bincount(truth).argmax()).astype(np.float64)
    ceiling = study.ceiling(questions)

    def row(method: str, answers: Answers, mu: float = 0.0, bits: int = 0) -> Row:
        auc = None if answers.auc is None else Estimate.of(answers.auc)
        above = ceiling.right - commonest
        kept = Estimate.ratio(answers.right - commonest, above) if above.mean() > 0 else None
        return Row(method, mu, bits, Estimate.of(answers.right), auc, kept)

    yield Row("always the commonest label", 0.0, 0, Estimate.of(commonest), None, None)
    yield row("clean, zero-shot", study.zero_shot(questions))
    yield row(f"clean, soft prompt of {name}", ceiling)
    for mu, bits in settings:
        yield row(f"{name}, no task prompt", study.served_without(questions, mu, bits), mu, bits)
        yield row(name, study.served(questions, mu, bits), mu, bits)
