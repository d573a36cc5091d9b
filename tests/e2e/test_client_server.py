"""del-client against del-server: two processes over loopback, a real (tiny) model."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from del_client import AsyncClient
from del_client.codec_cache import CodecCache
from del_client.terminal import safe
from del_codec import accounting
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable

DIM, WIDTH = 16, 32
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def options(server: str, tiny_codec: Path) -> list[str]:
    files = [
        "--tokenizer",
        str(tiny_codec / "tokenizer.json"),
        "--chat-template",
        str(tiny_codec / "chat_template.jinja"),
    ]
    return ["--server", server, *files]


@pytest.fixture
def run(options: list[str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """del-client in a process in which torch and transformers can't be imported."""
    blocked = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
    code = blocked + "from del_client.cli import main; sys.exit(main())"
    environment = {**os.environ, "DEL_CACHE": str(tmp_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments, *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return run


@pytest.fixture
def ask(run: Callable[..., subprocess.CompletedProcess[str]]) -> Ask:
    def ask(*arguments: str) -> dict[str, Any]:
        result = run("ask", *arguments, "--json")
        assert (result.returncode, result.stderr) == (0, "")
        figures: dict[str, Any] = json.loads(result.stdout)
        return figures

    return ask


def test_a_private_prompt(ask: Ask, tiny_codec: Path) -> None:
    prompt = "My name is Ada 🙂"
    figures = ask(prompt, "--max-tokens", "5")
    tokens = len(prompt.encode())  # one token a byte
    table = LatentTable.load(tiny_codec / "device.safetensors")
    assert figures["private_tokens"] == tokens
    assert figures["payload_bytes"] == tokens * DIM // 8
    assert figures["fp16_embedding_bytes"] == tokens * WIDTH * 2
    assert figures["wire_bytes"] > figures["payload_bytes"]
    assert figures["new_tokens"] <= 5
    assert figures["mu"] == pytest.approx(10, rel=1e-3)  # the default of the codec's measurements
    threshold = NoiseSetting.from_mu(10, DIM, 1).threshold_max(table.largest_latent)
    assert figures["epsilon_token"] == accounting.epsilon(accounting.Release(DIM, threshold), 1e-5)
    assert figures["epsilon_prompt"] == accounting.epsilon(accounting.Release(DIM * tokens, threshold), 1e-5)
    assert 0 < figures["cap_uniform"] <= figures["cap_prior"] <= 1
    assert 0 <= figures["attack_recovered"] <= 1


def test_a_public_prompt_is_answered_as_the_model_answers_it(ask: Ask, tiny_model: Path, tiny_codec: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello\n"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    figures = ask("hello\n", "--system", "be kind", "--public", "--max-tokens", "12")
    assert figures["prompt_tokens"] == inputs["input_ids"].shape[1]
    assert figures["text"] == safe(tokenizer.decode(out, skip_special_tokens=True))


def test_client_and_server_count_the_same_bytes(server: str, tiny_codec: Path, tmp_path: Path) -> None:
    async def ask() -> None:
        files = {"tokenizer": tiny_codec / "tokenizer.json", "chat_template": tiny_codec / "chat_template.jinja"}
        async with AsyncClient(server, **files, cache=CodecCache(tmp_path), ledger=tmp_path / "ledger") as client:
            first = client.generate("a prompt of some length " * 5, max_new_tokens=3)
            texts = [await read(first)]
            again = [client.send(first.prepared, max_new_tokens=3) for _ in range(2)]
            texts += await asyncio.gather(*(read(answer) for answer in again))
            assert len(set(texts)) == 1  # the same bits, answered greedily
            for answer in (first, *again):
                assert answer.finish.wire_bytes == answer.usage.received_bytes
                assert answer.usage.payload_bytes == first.prepared.payload_bytes
                assert answer.usage.private_tokens == first.prepared.private_tokens

    async def read(answer: Any) -> str:
        return "".join([delta.text async for delta in answer])

    asyncio.run(ask())


def test_a_prompt_over_the_context_is_refused_before_it_is_sent(run: Callable[..., Any]) -> None:
    result = run("ask", "a" * 600)
    assert result.returncode == 2
    assert "nothing was sent" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_inspection(run: Callable[..., Any]) -> None:
    result = run("inspect", "hello")
    assert (result.returncode, result.stderr) == (0, "")
    assert "of 5 private tokens guessed right" in result.stdout
