"""The frozen LLM as judge: continuations after embeddings are those after ids, whatever padding stands before."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from del_server.training.objective import Judge, distillation, nll, token_nll

PROMPT = torch.tensor([[10, 20, 30, 40, 50], [60, 70, 80, 90, 100]])
TARGET = torch.tensor([[7, 8, 9], [17, 18, 19]])
EVERYWHERE = torch.ones(2, 5, dtype=torch.bool)


@pytest.fixture(scope="module", params=["rotary", "absolute"])
def judge(request: pytest.FixtureRequest, tiny_model: Path) -> Judge:
    """A model that knows relative positions, and one that has an embedding for each absolute one."""
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    if request.param == "rotary":
        return Judge(AutoModelForCausalLM.from_pretrained(tiny_model))
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=120, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    return Judge(GPT2LMHeadModel(config))


@pytest.fixture
def soft(judge: Judge) -> Tensor:
    return judge.embeddings[[1, 3, 5, 11]] * 1.5


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_the_model_is_frozen(judge: Judge) -> None:
    assert not any(parameter.requires_grad for parameter in judge.model.parameters())
    assert not judge.model.training


def test_clean_embeddings_give_the_plain_models_logits(judge: Judge) -> None:
    with torch.no_grad():
        plain = judge.model(torch.cat([PROMPT, TARGET], dim=1)).logits[:, 4:7]
        assert close(judge.logits(None, judge.embeddings[PROMPT], EVERYWHERE, TARGET), plain)
        assert close(judge.teacher(PROMPT, EVERYWHERE, TARGET, TARGET.shape[1]), F.log_softmax(plain, dim=-1))


def test_a_soft_prompt_stands_before_the_prompt(judge: Judge, soft: Tensor) -> None:
    with torch.no_grad():
        found = judge.logits(soft, judge.embeddings[PROMPT], EVERYWHERE, TARGET)
        by_hand = torch.cat([soft.expand(2, -1, -1), judge.embeddings[PROMPT]], dim=1)
        assert close(found, judge.logits(None, by_hand, torch.ones(2, 9, dtype=torch.bool), TARGET))
        assert not close(found, judge.logits(None, judge.embeddings[PROMPT], EVERYWHERE, TARGET))


@pytest.mark.parametrize("with_soft", [False, True])
def test_padding_changes_nothing(judge: Judge, soft: Tensor, with_soft: bool) -> None:
    chosen = soft if with_soft else None
    present = EVERYWHERE.clone()
    present[0, :3] = False
    with torch.no_grad():
        padded = judge.logits(chosen, judge.embeddings[PROMPT], present, TARGET)
        alone = judge.logits(chosen, judge.embeddings[PROMPT[:1, 3:]], EVERYWHERE[:1, 3:], TARGET[:1])
        other = judge.logits(chosen, judge.embeddings[PROMPT[1:]], EVERYWHERE[1:], TARGET[1:])
        assert close(padded[:1], alone)
        assert close(padded[1:], other)
        rubbish = judge.embeddings[PROMPT].clone()
        rubbish[0, :3] = 50
        assert close(judge.logits(chosen, rubbish, present, TARGET), padded)


def test_a_hole_in_a_prompt_is_as_if_nothing_stood_there(judge: Judge, soft: Tensor) -> None:
    # The floor of a chat turn: the template without the user's words.
    present = EVERYWHERE.clone()
    present[:, 1:4] = False
    with torch.no_grad():
        holed = judge.logits(soft, judge.embeddings[PROMPT], present, TARGET)
        joined = judge.logits(soft, judge.embeddings[PROMPT[:, [0, 4]]], EVERYWHERE[:, :2], TARGET)
        assert close(holed, joined)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_nothing_is_read_from_an_absent_end_of_a_prompt(judge: Judge, soft: Tensor, left: int) -> None:
    # The floor of plain text: what is private is absent, and a continuation must not follow its last token.
    present = EVERYWHERE.clone()
    present[:, left:] = False
    with torch.no_grad():
        found = judge.logits(soft, judge.embeddings[PROMPT], present, TARGET)
        assert close(found, judge.logits(soft, judge.embeddings[PROMPT[:, :left]], EVERYWHERE[:, :left], TARGET))


def test_the_gradient_reaches_the_prompt_through_the_frozen_model(judge: Judge, soft: Tensor) -> None:
    prompt = judge.embeddings[PROMPT].requires_grad_()
    learned = soft.clone().requires_grad_()
    nll(judge.logits(learned, prompt, EVERYWHERE, TARGET), TARGET, torch.ones_like(TARGET)).backward()
    assert (prompt.grad.abs().sum(dim=-1) > 0).all()
    assert (learned.grad.abs().sum(dim=-1) > 0).all()


LOGITS = torch.tensor([[[0.0, math.log(3)], [math.log(7), 0.0]]])


def test_nll_is_the_mean_surprise_where_it_counts() -> None:
    target = torch.tensor([[1, 1]])
    assert token_nll(LOGITS, target).tolist() == [pytest.approx([math.log(4 / 3), math.log(8)])]
    both, first = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    assert float(nll(LOGITS, target, both)) == pytest.approx((math.log(4 / 3) + math.log(8)) / 2)
    assert float(nll(LOGITS, target, first)) == pytest.approx(math.log(4 / 3))


def test_distillation_is_the_divergence_from_the_teacher_where_it_counts() -> None:
    both, first = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    teacher = torch.tensor([[[0.5, 0.5], [0.125, 0.875]]]).log()
    divergences = [
        0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75),
        0.125 * math.log(0.125 / 0.875) + 0.875 * math.log(0.875 / 0.125),
    ]
    assert float(distillation(LOGITS, teacher, both)) == pytest.approx(sum(divergences) / 2)
    assert float(distillation(LOGITS, teacher, first)) == pytest.approx(divergences[0])
    assert float(distillation(LOGITS, F.log_softmax(LOGITS, dim=-1), both)) == pytest.approx(0, abs=1e-6)
