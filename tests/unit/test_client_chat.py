"""`del-client chat` as its user meets it: a process with a pipe or a terminal, against a recording server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from client_fakes import FakeServer, Serving, TinyCodec, finish, segments_of

from del_codec.v1 import inference_pb2 as pb


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    places = {"DEL_CACHE": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    return {**os.environ, **places, "TERM": "xterm", "NO_COLOR": ""}


@pytest.fixture
async def command(server: FakeServer, codec: TinyCodec) -> AsyncIterator[list[str]]:
    async with Serving(server) as address:
        yield [sys.executable, "-m", "del_client.cli", "chat", "--server", address, *codec.files]


async def chat(command: list[str], environment: dict[str, str], *lines: str) -> tuple[int, list[str], str]:
    """Exit code, lines of output and errors, of what is typed into a pipe."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    out, err = await process.communicate("".join(line + "\n" for line in lines).encode())
    assert process.returncode is not None
    return process.returncode, out.decode().splitlines(), err.decode()


def payloads(server: FakeServer, query_id: int) -> list[bytes]:
    segments = segments_of(server.requests(query_id))
    return [segment.private.payload for segment in segments if segment.HasField("private")]


class TestTurns:
    async def test_answers_and_what_each_turn_gave_away(
        self, command: list[str], environment: dict[str, str], server: FakeServer
    ) -> None:
        code, out, err = await chat(command, environment, "hi", "and then?", "/retry")
        assert (code, err) == (0, "")
        first, second, again = (line for line in out if line.startswith("2 tokens in"))
        assert out[0] == "hello"
        spent = re.search(r"epsilon ([0-9.]+) \(conversation ([0-9.]+)\), mu 8$", first)
        assert spent
        assert spent[1] == spent[2]
        more = re.search(r"epsilon ([0-9.]+) \(conversation ([0-9.]+)\)", second)
        assert more
        assert float(more[2]) > float(more[1])
        assert f"no new epsilon (conversation {more[2]})" in again
        assert payloads(server, 2)[:1] == payloads(server, 1)
        assert payloads(server, 3) == payloads(server, 2)
        sent = sum(request.ByteSize() + 5 for request in server.requests(1))
        assert f"{sent} bytes sent, {len(payloads(server, 1)[0])} of them bits" in first

    async def test_a_sum_over_settings_says_what_it_assumes(
        self, command: list[str], environment: dict[str, str]
    ) -> None:
        _, out, _ = await chat(command, environment, "hi", "/set mu 5", "and then?")
        first, second = (line for line in out if line.startswith("2 tokens in"))
        assert "if no setting" not in first
        assert re.search(r"\(conversation [0-9.]+ if no setting was chosen after an answer\), mu 8$", second)

    async def test_several_lines(self, command: list[str], environment: dict[str, str], server: FakeServer) -> None:
        await chat(command, environment, "a\\", "b\\", "c", '"""', "d", "", "e", '"""', "f")
        tokens = [
            [s.private.tokens for s in segments_of(server.requests(q)) if s.HasField("private")][-1] for q in (1, 2, 3)
        ]
        assert tokens == [len("a\nb\nc"), len("d\n\ne"), 1]

    async def test_a_new_conversation_forgets_the_old_one(
        self, command: list[str], environment: dict[str, str], server: FakeServer
    ) -> None:
        await chat(command, environment, "one", "/new", "two")
        assert len(payloads(server, 2)) == 1
        assert payloads(server, 2) != payloads(server, 1)

    async def test_an_error_ends_a_turn_and_not_the_chat(
        self, command: list[str], environment: dict[str, str], server: FakeServer
    ) -> None:
        calls = []

        async def refuse_once(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            calls.append(query_id)
            if len(calls) == 1:
                yield pb.GenerateResponse(query_id=query_id, error=pb.QueryError(code=13, message="no\x1b[2J\nluck"))
                return
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[5], text="fi\x1b[31mne"))
            yield finish(query_id, requests)

        server.reply = refuse_once
        code, out, _ = await chat(command, environment, "hi", "hi")
        assert code == 0
        assert "no[2J luck" in out
        assert "fi[31mne" in out
        assert payloads(server, 1) == payloads(server, 2)  # the same text again is the same release


class TestCommands:
    async def test_noise_and_sampling(
        self, command: list[str], environment: dict[str, str], server: FakeServer
    ) -> None:
        lines = ["/set mu 5", "/set bits 2", "/set temperature 0.5", "/set seed 9", "hi", "/set"]
        _, out, _ = await chat(command, environment, *lines)
        opening, prompt = server.requests(1)[0].open, segments_of(server.requests(1))
        assert (opening.options.temperature, opening.options.seed) == (0.5, 9)
        assert [segment.private.bits for segment in prompt if segment.HasField("private")] == [2]
        assert "mu           5.0" in out
        assert "timeout      no bound" in out

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("/set mu -1", "mu is -1.0: use a finite number above zero"),
            ("/set mu x", "mu is 'x': use M: noise"),
            ("/set bits 9", "bits is 9: use a whole number"),
            ("/set colour red", "/set is 'colour red': write a name and a value; names are mu, "),
            ('/set "mu', "/set is '\"mu': write a name and a value"),
            ("/jump", "command is '/jump': use one of /set, /inspect"),
            ("/inspect", "/inspect is 'nothing': ask something first"),
            ("/retry", "retry is 'nothing': ask something first"),
        ],
    )
    async def test_what_cannot_be_done_is_said(
        self, command: list[str], environment: dict[str, str], line: str, message: str
    ) -> None:
        code, out, _ = await chat(command, environment, line)
        assert code == 0
        assert out[0].startswith(message)

    async def test_paths_are_questions_and_not_commands(self, command: list[str], environment: dict[str, str]) -> None:
        _, out, _ = await chat(command, environment, "/usr/bin/env?")
        assert out[0] == "hello"

    async def test_inspect_shows_what_was_sent_or_a_preview(
        self, command: list[str], environment: dict[str, str], server: FakeServer
    ) -> None:
        _, out, _ = await chat(command, environment, "hi", "/inspect", "/inspect ho {{x}}")
        joined = "\n".join(out)
        bits = payloads(server, 1)[0]
        half = len(bits) * 8 // 2
        value = int.from_bytes(bits, "big")
        first = (value >> half) << (-half % 8)
        assert first.to_bytes((half + 7) // 8, "big").hex() in joined
        assert "private tokens guessed right (the bits that were sent)" in joined
        assert "private tokens guessed right (a preview: what is sent is drawn anew)" in joined
        assert '"[SECRET_1]"' in joined
        assert len(server.streams[-1]) == 1

    async def test_the_budget_is_the_ledgers(self, command: list[str], environment: dict[str, str]) -> None:
        _, out, _ = await chat(command, environment, "/budget", "hi", "/budget")
        assert out[0] == "nothing was sent privately"
        rows = [line.split() for line in out if re.match("[0-9a-f]{8}", line)]
        assert [row[1:3] for row in rows] == [["1", "2"]]

    async def test_help_and_quit(self, command: list[str], environment: dict[str, str], server: FakeServer) -> None:
        _, out, _ = await chat(command, environment, "/help", "/quit", "hi")
        assert {line.split()[0].rstrip(":,") for line in out[:7]} == {
            *("/set", "/inspect", "/budget", "/retry", "/new", "/help", "/quit")
        }
        assert server.streams == []


IN_A_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A process in a pseudo-terminal: `with Terminal(command, environment) as terminal`."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._handle, inner = pty.openpty()
        os.set_blocking(self._handle, False)
        self._process = subprocess.Popen(
            [sys.executable, "-c", IN_A_TERMINAL, *command],
            **dict.fromkeys(("stdin", "stdout", "stderr"), inner),
            env=environment,
            start_new_session=True,
        )
        os.close(inner)
        self._seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._handle)

    async def expect(self, pattern: str) -> str:
        """What came up to and with the pattern, after what was expected before."""
        while not (found := re.search(pattern, self._seen)):
            await asyncio.sleep(0.01)
            with contextlib.suppress(BlockingIOError):
                self._seen += os.read(self._handle, 1 << 16).decode()
        before, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self._handle, text.encode())

    async def ended(self) -> int:
        """The exit code."""
        while (code := self._process.poll()) is None:
            await asyncio.sleep(0.01)
        return code


class TestTerminal:
    async def test_ctrl_c_stops_an_answer_and_ctrl_d_the_chat(
        self, command: list[str], environment: dict[str, str], server: FakeServer
    ) -> None:
        async def endless(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            for _ in range(100_000):
                yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[5], text="word "))
                await asyncio.sleep(0.005)

        server.reply = endless
        with Terminal(command, environment) as terminal:
            await terminal.expect("> ")
            terminal.type("hi\n")
            await terminal.expect("word word")
            terminal.type("\x03")
            await terminal.expect(r"\[stopped\]")
            await terminal.expect("tokens in")
            await terminal.expect("> ")
            terminal.type("half a line")
            await terminal.expect("half a line")
            terminal.type("\x03")
            await terminal.expect("> ")
            terminal.type("more\n")
            await terminal.expect("word word")
            terminal.type("\x03")
            await terminal.expect(r"\[stopped\]")
            await terminal.expect("> ")
            terminal.type("x")
            await terminal.expect("x")  # lines are being edited, so that what follows is a key and not the line's end
            terminal.type("\x7f\x04")
            assert await terminal.ended() == 0
        assert server.requests(1)[-1].HasField("cancel")
        assert len(payloads(server, 2)) == 2  # the first question stayed, with as much of its answer as came
        assert payloads(server, 2)[0] == payloads(server, 1)[0]

    @pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
    async def test_colours_where_they_are_wanted(
        self, command: list[str], environment: dict[str, str], no_colour: str, coloured: bool
    ) -> None:
        with Terminal(command, {**environment, "NO_COLOR": no_colour}) as terminal:
            await terminal.expect("> ")
            terminal.type("/inspect hi\n")
            assert bool(re.search("\x1b\\[3[12]m", await terminal.expect("guessed right"))) == coloured
            await terminal.expect("> ")
            terminal.type("/quit\n")
            assert await terminal.ended() == 0
