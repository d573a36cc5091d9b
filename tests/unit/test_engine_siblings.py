"""Linears that read the same input: one product gives what each gave, in the memory that they had."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine_parity import llama
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from del_server import lora
from del_server.engine.probing import probe
from del_server.engine.siblings import Siblings, siblings_of

IDS = torch.tensor([[5, 6, 7, 8]])


def qwen() -> Any:
    """Its queries, keys and values have biases."""
    shape = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return Qwen2ForCausalLM(Qwen2Config(**shape, num_attention_heads=4, num_key_value_heads=2))


@pytest.fixture(params=[llama, qwen], ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(1)
    made = request.param().eval()
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return made


@torch.inference_mode()
def logits_of(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


def fused(model: Any) -> list[Siblings]:
    return siblings_of(model, lambda: probe(model))


def in_use(found: list[Siblings]) -> ExitStack:
    stack = ExitStack()
    for siblings in found:
        stack.enter_context(siblings.in_use())
    return stack


def memory_of(model: Any) -> int:
    """Bytes of all weights' memory, each piece once."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    return sum(storages.values())


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts products of matrices."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


def products_of(model: Any) -> int:
    with torch.no_grad(), Products() as counted:
        model(input_ids=IDS)
    return counted.count


def test_one_product_gives_what_each_gave(model: Any) -> None:
    layers, expected, asked = len(model.model.layers), logits_of(model), products_of(model)
    found = fused(model)
    assert len(found) == 2 * layers
    with in_use(found):
        assert torch.allclose(logits_of(model), expected, atol=1e-5)
        assert products_of(model) == asked - 3 * layers
    assert torch.equal(logits_of(model), expected)
    assert products_of(model) == asked


def test_weights_are_what_they_were_and_take_no_more_memory(model: Any, tmp_path: Path) -> None:
    before, memory = {name: value.clone() for name, value in model.state_dict().items()}, memory_of(model)
    found = fused(model)
    assert memory_of(model) == memory
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.save_pretrained(tmp_path)
    read = type(model).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(read[name], value) for name, value in before.items())
    again = fused(model)
    assert [one._weight.data_ptr() for one in again] == [one._weight.data_ptr() for one in found]
    assert memory_of(model) == memory


def test_a_lora_has_its_layers_as_they_were_and_its_say(model: Any) -> None:
    torch.manual_seed(2)
    for parameter in lora.add_lora(model, "own", 4):
        nn.init.normal_(parameter, std=0.3)
    lora.use(model, None)
    plain = logits_of(model)
    found = fused(model)
    for adapter in ("own", None):
        lora.use(model, adapter)
        expected = logits_of(model)
        assert torch.equal(expected, plain) == (adapter is None)
        with in_use(found):
            assert torch.allclose(logits_of(model), expected, atol=1e-5)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.bare = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.hooked, self.put = nn.Linear(4, 4), nn.Linear(4, 4)
        self.derived = torch.nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4)
        self.hooked.register_forward_hook(lambda *_: None)
        self.put.forward = lambda given: given  # type: ignore[method-assign]

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        parts = [self.first(given), self.bare(given), self.hooked(given), self.put(given), self.derived(given)]
        return sum(parts, self.first(given + 1))


def test_layers_that_differ_or_are_more_than_linear_are_left_alone() -> None:
    model, given = Mixed(), torch.ones(1, 4)
    weights = {name: value.data_ptr() for name, value in model.named_parameters()}
    assert siblings_of(model, lambda: model(given)) == []
    assert {name: value.data_ptr() for name, value in model.named_parameters()} == weights


class Alternating(nn.Module):
    """Asks its two linears now about the same input, now about two."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 5)

    def forward(self, given: torch.Tensor, also: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.one(given), self.other(also)


def test_a_layer_that_is_asked_about_something_else_answers_for_itself() -> None:
    model, given, also = Alternating(), torch.ones(2, 4), torch.arange(8.0).reshape(2, 4)
    expected = model(given, also)
    found = siblings_of(model, lambda: model(given, given))
    assert len(found) == 1
    with in_use(found):
        assert all(map(torch.allclose, model(given, also), expected))
        assert torch.allclose(model.other(also), expected[1])
