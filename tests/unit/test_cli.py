"""del-client as its users meet it: a process with arguments, output, errors and exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from client_fakes import DIM, WIDTH, FakeServer, Serving, TinyCodec, finish, segments_of
from tokenizers import Tokenizer

from del_client.commands.arguments import read_prompt
from del_client.terminal import one_line, safe
from del_codec import accounting
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb

JSON_KEYS = {
    *("text", "finish_reason", "prompt_tokens", "private_tokens", "new_tokens", "payload_bytes", "wire_bytes"),
    *("plain_text_bytes", "fp16_embedding_bytes", "mu", "bits", "epsilon_token", "epsilon_prompt", "delta"),
    *("cap_uniform", "cap_prior", "attack_recovered", "ttft_ms", "total_ms"),
}
AWAY = ["--server", "127.0.0.1:1"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**os.environ, "DEL_CACHE": str(tmp_path_factory.mktemp("cache"))}


@dataclass
class Result:
    code: int
    out: str
    err: str


class Client:
    """Runs del-client in a process of its own, against one server and one codec's files."""

    def __init__(self, options: list[str], environment: dict[str, str]) -> None:
        self.options = options
        self.environment = environment

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "del_client.cli", *arguments]
        return await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env=self.environment
        )

    async def __call__(self, command: str, *arguments: str, stdin: bytes = b"", **environment: str) -> Result:
        self.environment = {**self.environment, **environment}
        process = await self.start(command, *arguments, *([] if command == "certify" else self.options))
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def client(server: FakeServer, codec: TinyCodec, environment: dict[str, str]) -> AsyncIterator[Client]:
    async with Serving(server) as address:
        yield Client(["--server", address, *codec.files], environment)


@pytest.fixture
def alone(environment: dict[str, str]) -> Client:
    """Without a server."""
    return Client([], environment)


def public_ids(server: FakeServer) -> list[int]:
    return [token for segment in segments_of(server.requests()) for token in segment.public.token_ids]


class TestAsk:
    async def test_shaping(self, client: Client, server: FakeServer) -> None:
        result = await client("ask", "hi", "--interval", "50", "--pad", "128")
        assert result.code == 0
        assert server.requests()[0].open.shaping == pb.Shaping(interval_ms=50, bucket_bytes=128)
        result = await client("ask", "hi", "--interval", "50", "--group", "2")
        assert (result.code, result.out) == (2, "")
        assert "use tokens or interval_ms, not both" in result.err

    async def test_json(self, client: Client, server: FakeServer) -> None:
        result = await client("ask", "hi", "--json", "--mu", "5", "--bits", "2", "--max-tokens", "9", "--seed", "4")
        assert (result.code, result.err) == (0, "")
        figures = json.loads(result.out)
        assert set(figures) == JSON_KEYS
        private = next(s.private for s in segments_of(server.requests()) if s.HasField("private"))
        setting = NoiseSetting.from_mu(5, DIM, 2)
        assert private.noise_scale == setting.scale
        one = accounting.Release(DIM * 3, setting.threshold_max())
        expected = {
            "text": "hello",
            "finish_reason": "stop",
            "private_tokens": 2,
            "new_tokens": 2,
            "payload_bytes": len(private.payload),
            "wire_bytes": sum(request.ByteSize() + 5 for request in server.requests()),
            "plain_text_bytes": 2,
            "fp16_embedding_bytes": 2 * WIDTH * 2,
            "mu": 5.0,
            "bits": 2,
            "delta": 1e-5,
            "epsilon_token": accounting.epsilon(one, 1e-5),
        }
        assert {key: figures[key] for key in expected} == expected
        assert figures["epsilon_token"] < figures["epsilon_prompt"]
        assert 0 < figures["cap_uniform"] <= figures["cap_prior"] <= 1
        assert figures["attack_recovered"] in (0, 0.5, 1)
        assert figures["prompt_tokens"] == 2 + len(public_ids(server))
        assert 0 < figures["ttft_ms"] <= figures["total_ms"]
        options = server.requests()[0].open.options
        assert (options.max_new_tokens, options.seed, options.temperature) == (9, 4, 0)

    async def test_text_goes_to_stdout_and_the_report_to_stderr(self, client: Client) -> None:
        result = await client("ask", "hi")
        assert (result.code, result.out) == (0, "hello\n")
        for words in ("2 of them private", "epsilon", "context-free", "same public structure", "best attack"):
            assert words in result.err

    @pytest.mark.parametrize("arguments", [["-"], []])
    async def test_the_prompt_from_stdin(self, client: Client, arguments: list[str]) -> None:
        result = await client("ask", *arguments, "--json", stdin="héllo\n".encode())
        assert json.loads(result.out)["private_tokens"] == 6

    async def test_a_system_prompt_is_public_and_a_plain_text_has_no_template(
        self, client: Client, server: FakeServer, codec: TinyCodec
    ) -> None:
        await client("ask", "hi", "--system", "be kind")
        tokenizer = Tokenizer.from_file(str(codec.tokenizer))
        assert "system\nbe kind<|im_end|>" in tokenizer.decode(public_ids(server), skip_special_tokens=False)
        figures = json.loads((await client("ask", "hi", "--plain", "--json")).out)
        assert figures["prompt_tokens"] == figures["private_tokens"] == 2

    async def test_public_sends_ids_and_claims_nothing(self, client: Client, server: FakeServer) -> None:
        figures = json.loads((await client("ask", "hi", "--public", "--json")).out)
        assert (figures["private_tokens"], figures["payload_bytes"], figures["epsilon_token"]) == (0, 0, None)
        assert set(figures) == JSON_KEYS
        assert "no privacy" in (await client("ask", "hi", "--public")).err

    async def test_mu_outside_of_the_trained_range_is_told(self, client: Client) -> None:
        result = await client("ask", "hi", "--json", "--mu", "0.5")
        assert result.code == 0
        assert result.err == (
            "warning: mu 0.5 is outside of 1 to 40, what the codec was trained for: answers may be poor\n"
        )

    async def test_what_a_server_writes_cannot_steer_the_terminal(self, client: Client, server: FakeServer) -> None:
        async def hostile(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            text = "a\x1b[2Jb\r\x07\x9bc\td\n\u202ee\u2066\x00é🙂"
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(text=text))
            yield finish(query_id, requests)

        server.reply = hostile
        assert (await client("ask", "hi")).out == "a[2Jbc\td\neé🙂\n"
        assert (await client("ask", "hi", PYTHONIOENCODING="ascii")).out == "a[2Jbc\td\ne??\n"

    async def test_a_hostile_error_stays_on_one_line(self, client: Client, server: FakeServer) -> None:
        async def refuse(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            error = pb.QueryError(code=9, message="codec is x:\n\x1b[31mfetch it\ragain")
            yield pb.GenerateResponse(query_id=query_id, error=error)

        server.reply = refuse
        result = await client("ask", "hi")
        assert (result.code, result.err) == (1, "del-client: codec is x: [31mfetch itagain\n")


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--mu", "0"], "mu is 0.0"),
            (["--mu", "-1"], "mu is -1.0"),
            (["--mu", "nan"], "mu is nan"),
            (["--mu", "inf"], "mu is inf"),
            (["--bits", "0"], "bits is 0"),
            (["--bits", "9"], "bits is 9"),
            (["--delta", "2"], "delta is 2.0"),
            (["--temperature", "-1"], "temperature is -1.0"),
            (["--top-p", "0"], "top_p is 0.0"),
            (["--max-tokens", "-1"], "max_new_tokens is -1"),
            (["--seed", "-1"], "seed is -1"),
            (["--plain", "--system", "x"], "system is 'x'"),
        ],
    )
    async def test_is_named_in_one_line_and_sends_nothing(
        self, client: Client, server: FakeServer, arguments: list[str], message: str
    ) -> None:
        result = await client("ask", "hi", *arguments)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"del-client: {message}: ")
        assert result.err.count("\n") == 1
        assert server.streams == []

    @pytest.mark.parametrize("command", ["ask", "inspect"])
    @pytest.mark.parametrize("stdin", [b"", b"\n", b"\xff\xfe"])
    async def test_a_prompt_that_is_none(self, client: Client, command: str, stdin: bytes) -> None:
        result = await client(command, "-", stdin=stdin)
        assert result.code == 2
        assert result.err.startswith("del-client: prompt is ")

    async def test_an_argument_that_is_not_utf_8(self, client: Client) -> None:
        result = await client("ask", os.fsdecode(b"a\xff"))
        assert result.code == 2
        assert "write it in UTF-8" in result.err

    @pytest.mark.parametrize("arguments", [[], ["ask", "hi", "--mu", "x"], ["wrong"], ["certify", "--dim", "4"]])
    async def test_arguments_that_cannot_be_parsed(self, alone: Client, arguments: list[str]) -> None:
        process = await alone.start(*arguments)
        _, err = await process.communicate()
        assert process.returncode == 2
        assert err.count(b"\n") == 1
        assert b"--help" in err

    async def test_an_address_that_is_none(self, alone: Client) -> None:
        result = await alone("ask", "hi", "--server", "nowhere")
        assert (result.code, result.err) == (
            2,
            "del-client: server is 'nowhere': use HOST:PORT, as in 127.0.0.1:50051\n",
        )


class TestServers:
    async def test_no_server(self, alone: Client) -> None:
        result = await alone("ask", "hi", *AWAY)
        assert result.code == 3
        assert result.err.startswith("del-client: no server answers at 127.0.0.1:1: start one with `del-server serve`")
        assert result.err.count("\n") == 1

    async def test_a_tokenizer_that_is_not_there(self, client: Client) -> None:
        client.options = client.options[:2]
        result = await client("ask", "hi")
        assert result.code == 1
        assert "--tokenizer FILE" in result.err


class TestEndings:
    @pytest.fixture(autouse=True)
    def endless(self, server: FakeServer) -> None:
        async def reply(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            for _ in range(100_000):
                yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(text="word "))
                await asyncio.sleep(0.001)

        server.reply = reply

    async def test_ctrl_c_is_quiet_and_cancels_the_query(self, client: Client, server: FakeServer) -> None:
        process = await client.start("ask", "hi", *client.options)
        assert process.stdout is not None
        await process.stdout.readexactly(5)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert (process.returncode, err) == (130, b"")
        assert server.requests()[-1].HasField("cancel")

    async def test_a_reader_that_leaves(self, client: Client) -> None:
        receiving, sending = os.pipe()
        command = [sys.executable, "-m", "del_client.cli", "ask", "hi", *client.options]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=sending,
            stderr=asyncio.subprocess.PIPE,
            env={**client.environment, "PYTHONUNBUFFERED": ""},
        )
        os.close(sending)
        await asyncio.to_thread(os.read, receiving, 5)
        os.close(receiving)
        _, err = await process.communicate()
        assert (process.returncode, err) == (141, b"")


class TestCertify:
    ARGUMENTS = ("--dim", "64", "--bits", "1", "--mu", "5", "--delta", "1e-5")

    async def test_json(self, alone: Client) -> None:
        result = await alone("certify", *self.ARGUMENTS, "--tokens", "32", "--json")
        assert (result.code, result.err) == (0, "")
        figures = json.loads(result.out)
        keys = {"epsilon", "delta", "pure_epsilon", "rho", "cap_uniform", "n_draws", "p_plus"}
        assert set(figures) == keys
        release = accounting.Release(64 * 32, NoiseSetting.from_mu(5, 64, 1).threshold_max())
        assert figures["epsilon"] == accounting.epsilon(release, 1e-5)
        assert figures["pure_epsilon"] == accounting.pure_epsilon(release)
        assert figures["rho"] == accounting.rho(release)
        assert figures["n_draws"] == 2048
        assert figures["p_plus"] == release.threshold_max / 2**32

    async def test_one_token_as_the_method_has_it(self, alone: Client) -> None:
        figures = json.loads((await alone("certify", *self.ARGUMENTS, "--tokens", "1", "--json")).out)
        assert figures["epsilon"] == pytest.approx(29.47, abs=0.01)
        assert figures["cap_uniform"] == pytest.approx(0.039, abs=0.001)

    async def test_text_names_unit_adversary_and_adjacency(self, alone: Client) -> None:
        out = (await alone("certify", *self.ARGUMENTS)).out
        for word in ("unit", "adversary", "adjacency", "1 token", "public structure"):
            assert word in out

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--mu", "0", "mu is 0.0"),
            ("--mu", "nan", "mu is nan"),
            ("--dim", "0", "dim is 0"),
            ("--bits", "9", "bits is 9"),
            ("--tokens", "0", "tokens is 0"),
            ("--vocabulary", "0", "vocabulary is 0"),
            ("--delta", "1", "delta is 1.0"),
        ],
    )
    async def test_bad_input(self, alone: Client, option: str, value: str, message: str) -> None:
        result = await alone("certify", *self.ARGUMENTS, option, value)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"del-client: {message}: ")


class TestClaims:
    async def test_the_codecs_own_figures_stand_beside_the_answer_where_there_are_any(self, client: Client) -> None:
        claimed = "leaves 40% of a prompt's usefulness and lets attacks read 25% of the tokens"
        assert claimed in (await client("ask", "hi", "--mu", "8")).err
        assert "maker's measurements" not in (await client("ask", "hi", "--mu", "7")).err
        assert "maker's measurements" not in (await client("ask", "hi", "--mu", "8", "--bits", "2")).err


class TestInspect:
    async def test_a_codec_file_needs_no_server(self, alone: Client, codec: TinyCodec) -> None:
        for path in (codec.tokenizer.parent, codec.tokenizer.parent / "device.safetensors"):
            result = await alone("inspect", "hi", "--codec", str(path), *AWAY)
            assert (result.code, result.err) == (0, "")
        lines = result.out.splitlines()
        assert lines[1].startswith("[6 public]")
        assert lines[1].endswith("6 token ids in the clear")
        words = [line for line in lines if line.startswith(('"h"', '"i"')) and "in the clear" not in line]
        assert len(words) == 2
        assert all(len(bytes.fromhex(line.split()[-1])) == (DIM + 7) // 8 for line in words)
        assert "of 2 private tokens guessed right" in result.out

    async def test_weak_noise_is_read_and_strong_is_not(self, alone: Client, codec: TinyCodec) -> None:
        at = ["--codec", str(codec.tokenizer.parent), "--plain"]
        weak = (await alone("inspect", "hello", *at, "--mu", "1000", "--bits", "8")).out
        assert weak.count(" right") == 5 + 1
        assert '"h"    "h"' in weak
        strong = (await alone("inspect", "hello", *at, "--mu", "0.01")).out
        assert "0.0% of 5 private tokens guessed right" in strong

    async def test_a_server_gives_the_codec_and_gets_nothing(self, client: Client, server: FakeServer) -> None:
        result = await client("inspect", "hi")
        assert result.code == 0
        assert server.streams == []

    async def test_a_damaged_codec_file(self, alone: Client, tmp_path: Path) -> None:
        (tmp_path / "device.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0junk")
        result = await alone("inspect", "hi", "--codec", str(tmp_path))
        assert result.code == 1
        assert result.err.count("\n") == 1


async def test_help_says_how_the_default_noise_is_chosen(alone: Client) -> None:
    out = " ".join((await alone("ask", "--help")).out.split())
    assert "the best attack measured with the codec recovers at most a quarter of the tokens" in out
    assert "in the clear" in out


def test_a_terminal_without_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    with pytest.raises(InvalidValue, match="prompt is ''"):
        read_prompt(None)


def test_safe_text() -> None:
    assert safe("".join(map(chr, range(0x20)))) == "\t\n"
    assert safe("family 👨‍👩‍👧 ok") == "family 👨‍👩‍👧 ok"
    assert one_line("a\n\t b\x1b") == "a b"
