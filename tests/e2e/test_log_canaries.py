"""Canaries: what callers say and show is found neither in the logs, at their most talkative, nor in the metrics."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import grpc
import pytest
from server_process import SERVE

from del_client import Access, Client, Message
from del_client.codec_cache import CodecCache
from del_codec.errors import AccessDenied
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1 import inference_pb2_grpc
from del_server.access.token_file import change_tokens, read_tokens
from del_server.access.tokens import new_token

PRIVATE, PUBLIC, TASK = "canaryprivatediagnosis", "canarypublicsystem", "canarytaskname"
PORT = re.compile(r"ready on (\S+:\d+)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused_task(address: str, token: str) -> grpc.StatusCode:
    """The code of a question with a task that no codec has."""
    segments, candidates = [pb.Segment(public=pb.PublicSegment(token_ids=[5]))], [pb.Candidate(token_ids=[6])]
    request = pb.ScoreRequest(segments=segments, candidates=candidates, task=TASK)
    with grpc.insecure_channel(address) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).Score
        with pytest.raises(grpc.RpcError) as caught:
            call(request, metadata=(("authorization", f"Bearer {token}"),))
    return caught.value.code()


@pytest.mark.parametrize("form", ["json", pytest.param("text", marks=pytest.mark.slow)])
def test_neither_words_nor_secrets(tiny_model: Path, tiny_codec: Path, tmp_path: Path, form: str) -> None:
    token, entry = new_token("ada", "default", 1)
    wrong = new_token("ada", "default", 1)[0]
    file = tmp_path / "tokens.json"
    change_tokens(file, lambda before: (entry,))
    metrics = free_port()
    command = [*SERVE, "--device", "cpu", "--model", str(tiny_model), "--codec", str(tiny_codec), "--tokens", str(file)]
    command += ["--log-format", form, "--log-level", "debug", "--metrics-port", str(metrics)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = PORT.search(process.stdout.readline())
        assert ready
        files = {"tokenizer": tiny_codec / "tokenizer.json", "chat_template": tiny_codec / "chat_template.jinja"}
        places = {"cache": CodecCache(tmp_path), "ledger": tmp_path / "ledger.sqlite3"}
        with Client(ready[1], **files, **places, access=Access(token=token)) as client:
            chat = [Message("system", PUBLIC, public=True), Message("user", PRIVATE)]
            answers = ["".join(delta.text for delta in client.generate(chat, max_new_tokens=60)) for _ in range(2)]
            answers.append("".join(delta.text for delta in client.generate(PRIVATE, clear=True, max_new_tokens=60)))
            client.classify(PRIVATE, ["good", "bad"], template="{} " + PUBLIC + ":")
        assert refused_task(ready[1], token) is grpc.StatusCode.NOT_FOUND
        with pytest.raises(AccessDenied), Client(ready[1], **files, **places, access=Access(token=wrong)):
            pass
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics") as page:
            scraped = page.read().decode()
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate()
    assert process.returncode == 0, errors
    said = [word for answer in answers for word in re.findall(r"[ -~]{5,}", answer)]
    secrets = [token, wrong, token[22:], wrong[22:], entry.sha256, hashlib.sha256(token.encode()).hexdigest()]
    ids = [str(list(PRIVATE.encode())), str(list(PUBLIC.encode()))]
    for written in (out, errors, scraped):
        for canary in [PRIVATE, PUBLIC, TASK, *said, *secrets, *ids]:
            assert canary not in written
    assert errors.count("query ended") == 4
    assert errors.count("call refused") == 1
    assert "ada" in errors
    assert "ada" not in scraped
    if form == "json":
        lines = [json.loads(line) for line in errors.splitlines()]
        ended = [line for line in lines if line["message"] == "query ended"]
        assert {line["caller"] for line in ended} == {"ada"}
        assert [line["outcome"] for line in ended].count("scored") == 1
        assert len({(line["stream"], line["query"]) for line in ended}) == 4
        assert all(line["private_tokens"] + line["public_tokens"] > 0 for line in ended)
    assert read_tokens(file).all == (entry,)
