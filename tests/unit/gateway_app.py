"""An app that talks to a gateway, for tests: what it is answered, and what the server behind the gateway got."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
from client_fakes import FakeServer, TinyCodec, byte_tokenizer, segments_of
from gateway_fakes import Gateway, Saying

from del_client import Ledger, Policy
from del_codec.v1 import inference_pb2 as pb

Json = dict[str, Any]


class App:
    """An app that talks to a gateway, and what the server behind it got."""

    def __init__(self, url: str, server: FakeServer, ledger: Path) -> None:
        self.http = httpx.Client(base_url=url)
        self.server = server
        self.ledger = ledger

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json={"model": "tiny", **body})

    def chat(self, *messages: Json | str, **body: Any) -> Json:
        response = self.post("/v1/chat/completions", messages=[said(one) for one in messages], **body)
        assert response.status_code == 200, response.text
        found: Json = response.json()
        return found

    def stream(self, path: str, **body: Any) -> list[Json]:
        """The chunks; the last event has to be [DONE]."""
        response = self.post(path, stream=True, **body)
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [event for event in response.text.split("\n\n") if event]
        assert events.pop() == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def sent(self) -> list[pb.Segment]:
        """The segments of the latest query."""
        queries = self.server.streams[-1]
        return segments_of(queries[max(queries)])

    def public_text(self) -> str:
        ids = [token for segment in self.sent() for token in segment.public.token_ids]
        return str(byte_tokenizer().decode(ids, skip_special_tokens=False))

    def payloads(self) -> list[bytes]:
        return [segment.private.payload for segment in self.sent() if segment.HasField("private")]

    def charged(self) -> int:
        """Tokens that the ledger has been charged for."""
        with Ledger(self.ledger) as ledger, ledger.reading() as entries:
            return sum(group.tokens for group in entries.groups("day", 1))


def said(message: Json | str) -> Json:
    return {"role": "user", "content": message} if isinstance(message, str) else message


def answered(text: str) -> Json:
    return {"role": "assistant", "content": text}


Start = Callable[..., Any]


def starting(codec: TinyCodec, tmp_path: Path) -> Start:
    """A context manager of an app whose server answers as said; keyword arguments are the gateway's settings."""

    @contextmanager
    def start(*answers: str, reply: Any = None, policy: Policy | None = None, **settings: Any) -> Iterator[App]:
        server = FakeServer(codec, reply=reply or Saying(*answers))
        gateway = Gateway(server, codec, tmp_path, settings, policy=policy)
        with gateway as url:
            app = App(url, server, tmp_path / "ledger.sqlite3")
            with app.http:
                yield app

    return start
