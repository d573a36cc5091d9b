"""`del-client gateway` before `del-server`, both processes of their own, asked by the clients that apps have."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from gateway_process import gateway
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI
from server_process import SERVE, running

from del_client import Ledger

STREAMS = 32
QUESTION = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def url(server: str, tiny_codec: Path, folder: Path) -> Iterator[str]:
    with gateway(server, tiny_codec, folder, "--model", "gpt-4o-mini", "--max-tokens", "8") as url:
        yield url


@pytest.fixture(scope="module")
def model(url: str) -> str:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none").models.list().data[0].id


def charged(folder: Path) -> int:
    with Ledger(folder / "ledger.sqlite3") as ledger, ledger.reading() as entries:
        return sum(group.tokens for group in entries.groups("day", 1))


class TestOpenAI:
    def test_whole_and_streamed_answers_are_the_same_and_turns_cost_their_own_words(
        self, url: str, model: str, folder: Path
    ) -> None:
        before = charged(folder)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            whole = client.chat.completions.create(model=model, messages=[QUESTION], extra_body={"del": {"mu": 5}})
            assert getattr(whole, "del")["mu"] == 5
            assert whole.usage is not None
            chunks = list(
                client.chat.completions.create(
                    model="gpt-4o-mini", messages=[QUESTION], stream=True, stream_options={"include_usage": True}
                )
            )
            answer = whole.choices[0].message.content
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == answer
            assert chunks[-1].usage == whole.usage
            more = [QUESTION, {"role": "assistant", "content": answer}, {"role": "user", "content": "and?"}]
            found = client.chat.completions.create(model=model, messages=more)
            assert getattr(found, "del")["charged_tokens"] == len("and?")
        assert charged(folder) - before == len("hi" + "and?")

    def test_texts_logprobs_seeds_and_choices(self, url: str, model: str) -> None:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            text = client.completions.create(model=model, prompt="once", max_tokens=4, logprobs=1)
            assert text.choices[0].logprobs is not None
            assert text.choices[0].finish_reason == "length"
            asked = {"model": model, "messages": [QUESTION], "temperature": 1.5, "seed": 7, "max_tokens": 4, "n": 2}
            first, second = (client.chat.completions.create(**asked, logprobs=True, top_logprobs=2) for _ in range(2))
            contents = [choice.message.content for choice in first.choices]
            assert contents == [choice.message.content for choice in second.choices]
            assert contents[0] != contents[1]
            entries = first.choices[0].logprobs.content
            assert entries is not None
            assert [len(entry.top_logprobs) for entry in entries] == [2] * len(entries)
            assert first.usage.completion_tokens == 8

    def test_its_errors(self, url: str, model: str) -> None:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.NotFoundError) as missing:
                client.chat.completions.create(model="gpt-5", messages=[QUESTION])
            assert missing.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(model=model, messages=[QUESTION], logit_bias={"5": 1})
            assert refused.value.param == "logit_bias"
            with pytest.raises(openai.BadRequestError) as long:
                client.chat.completions.create(model=model, messages=[{"role": "user", "content": "x" * 600}])
            assert long.value.code == "context_length_exceeded"

    async def test_32_streams_at_once(self, url: str, model: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

            async def ask(number: int) -> str:
                messages = [{"role": "user", "content": f"question {number}"}]
                stream = await client.chat.completions.create(model=model, messages=messages, stream=True, max_tokens=4)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            texts = await asyncio.gather(*(ask(number) for number in range(STREAMS)))
        assert len(texts) == STREAMS


async def test_langchain(url: str, model: str, folder: Path) -> None:
    llm = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=model, max_retries=0)
    before = charged(folder)
    answer = llm.invoke("langchain")
    assert isinstance(answer.content, str)
    pieces = [piece.content async for piece in llm.astream([HumanMessage("langchain")])]
    assert "".join(pieces) == answer.content
    await llm.ainvoke([HumanMessage("langchain"), AIMessage(answer.content), HumanMessage("more")])
    assert charged(folder) - before == len("langchain" + "more")


def test_curl(url: str, model: str) -> None:
    body = json.dumps({"model": model, "messages": [QUESTION], "stream": True})
    command = ["curl", "--silent", "--no-buffer", "--fail-with-body", f"{url}/v1/chat/completions"]
    done = subprocess.run([*command, "--json", body], capture_output=True, text=True, check=True)
    events = done.stdout.strip().split("\n\n")
    assert json.loads(events[0].removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1] == "data: [DONE]"
    refused = subprocess.run([*command, "--data", body], capture_output=True, text=True, check=False)
    assert json.loads(refused.stdout)["error"]["code"] == "unsupported_media_type"


@pytest.mark.slow
def test_a_caller_that_leaves_stops_the_model(tiny_model: Path, tiny_codec: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    slow = [sys.executable, str(Path(__file__).parent / "slow_server.py"), "0.05", *SERVE[3:]]
    command = [*slow, "--model", str(tiny_model), "--codec", str(tiny_codec), "--metrics-port", str(port)]

    def count(name: str) -> float:
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        return sum(float(line.split()[1]) for line in page.splitlines() if line.startswith(name))

    with running(command) as address, gateway(address, tiny_codec, tmp_path) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            model = client.models.list().data[0].id
            stream = client.chat.completions.create(model=model, messages=[QUESTION], stream=True, max_tokens=400)
            for _, _ in zip(range(4), stream, strict=False):
                pass
            stream.close()
        while not count('del_server_queries_total{outcome="cancelled"}'):
            time.sleep(0.05)
        assert 3 <= count('del_server_tokens_total{kind="generated"}') < 200  # benchmarks count them exactly


def test_a_gateway_may_be_started_before_its_server_and_needs_a_token_beyond_loopback(
    tiny_codec: Path, tmp_path: Path
) -> None:
    with (
        gateway("127.0.0.1:1", tiny_codec, tmp_path) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError) as away:
            client.chat.completions.create(model="any", messages=[QUESTION])
        assert (away.value.status_code, away.value.code) == (503, "server_unavailable")
        assert away.value.response.headers["retry-after"] == "1"
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    with gateway("127.0.0.1:1", tiny_codec, tmp_path, "--host", "0.0.0.0", "--token-file", str(token)) as url:
        base = f"{url.replace('0.0.0.0', '127.0.0.1')}/v1"
        with openai.OpenAI(base_url=base, api_key="0123456789abcdeF", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
            with pytest.raises(openai.InternalServerError):
                client.with_options(api_key="0123456789abcdef").models.list()
    open_to_all = [sys.executable, "-m", "del_client.cli", "gateway", "--host", "0.0.0.0"]
    refused = subprocess.run(open_to_all, capture_output=True, text=True, check=False)
    assert (refused.returncode, "--token-file" in refused.stderr) == (2, True)
