"""Turns of a conversation: what each sends again, and what it takes up."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from client_fakes import DIM, FakeServer, finish
from client_talk import END_OF_SEQUENCE, Saying, private, public_text, read, sent

from del_client import AsyncClient
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb

SETTING = NoiseSetting.from_mu(5, DIM, 2)


class TestConversation:
    async def test_later_turns_send_the_same_bits_and_the_servers_own_ids(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "one", "two", "three")
        talk = client.conversation("be kind", mu=5)
        for question in ("first", "second", "third"):
            await read(talk.generate(question))
        bits = [private(sent(server, query_id)) for query_id in (1, 2, 3)]
        assert bits[1][:1] == bits[0]
        assert bits[2][:2] == bits[1]
        assert len(bits[2]) == 3
        assert "be kind" in public_text(client, sent(server, 3))
        assert "one<|im_end|>\n" in public_text(client, sent(server, 3))
        assert "two<|im_end|>\n" in public_text(client, sent(server, 3))
        assert [message.content for message in talk.messages] == [
            "be kind",
            "first",
            "one",
            "second",
            "two",
            "third",
            "three",
        ]

    async def test_answers_go_back_as_the_ids_that_came_whatever_a_tokenizer_would_make_of_them(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        async def odd(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[250, 251, 252], text="odd"))
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[END_OF_SEQUENCE]))
            yield finish(query_id, requests)

        server.reply = odd
        talk = client.conversation()
        await read(talk.generate("a"))
        await read(talk.generate("b"))
        ids = [list(segment.public.token_ids) for segment in sent(server, 2)]
        assert [250, 251, 252] in ids

    async def test_a_change_of_noise_leaves_earlier_messages_as_they_were_sent(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        talk = client.conversation(mu=5, bits=2)
        await read(talk.generate("first"))
        talk.options = {"mu": 9, "bits": 1}
        await read(talk.generate("second"))
        bits = [segment.private.bits for segment in sent(server, 2) if segment.HasField("private")]
        assert bits == [2, 1]
        assert private(sent(server, 2))[0] == private(sent(server, 1))[0]

    async def test_retry_asks_for_another_answer_with_the_same_bits(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "one", "two", "three")
        talk = client.conversation()
        with pytest.raises(InvalidValue, match="ask something first"):
            talk.retry()
        await read(talk.generate("first"))
        assert await read(talk.retry(temperature=1.0)) == "two"
        assert sent(server, 2) == sent(server, 1)
        assert [message.content for message in talk.messages] == ["first", "two"]
        await read(talk.generate("second"))
        assert private(sent(server, 3))[0] == private(sent(server, 1))[0]

    async def test_an_answer_that_is_left_stays_as_far_as_it_came(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "endless", "more")
        talk = client.conversation()
        deltas = aiter(talk.generate("first"))
        assert [(await anext(deltas)).text for _ in range(3)] == ["e", "n", "d"]
        with pytest.raises(InvalidValue, match="busy"):
            talk.generate("second")
        await deltas.aclose()
        await read(talk.generate("second"))
        assert [message.content for message in talk.messages] == ["first", "end", "second", "more"]
        assert "end<|im_end|>" in public_text(client, sent(server, 2))

    async def test_after_leaving_a_loop_the_conversation_goes_on_at_once(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "endless", "more")
        talk = client.conversation()
        async for delta in talk.generate("first"):
            if delta.text == "d":
                break
        assert await read(talk.generate("second")) == "more"
        assert [message.content for message in talk.messages] == ["first", "end", "second", "more"]

    async def test_an_answer_that_fails_leaves_no_trace_and_may_be_tried_again(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        async def refuse(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[5], text="a"))
            yield pb.GenerateResponse(query_id=query_id, error=pb.QueryError(code=13, message="broken"))

        talk = client.conversation()
        server.reply = refuse
        with pytest.raises(Exception, match="broken"):
            await read(talk.generate("first"))
        assert talk.messages == ()
        server.reply = Saying(client, "one", "two")
        assert await read(talk.retry()) == "one"
        assert sent(server, 2) == sent(server, 1)
        await read(talk.generate("second"))
        assert [message.content for message in talk.messages] == ["first", "one", "second", "two"]

    async def test_a_placeholder_stands_for_a_secret_and_comes_back_as_it(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "hello [SECRET_1]!", "yes, [SECRET_1]")
        talk = client.conversation()
        answer = talk.generate("my name is {{Ada}}")
        assert await read(answer) == answer.text == "hello Ada!"
        assert "[SECRET_1]" in public_text(client, sent(server, 1))
        assert await read(talk.generate("am I Ada?")) == "yes, Ada"
        later = public_text(client, sent(server, 2))
        assert "hello [SECRET_1]!<|im_end|>" in later
        assert "Ada" not in later
        assert later.count("[SECRET_1]") == 3

    async def test_two_conversations_share_nothing(self, client: AsyncClient, server: FakeServer) -> None:
        for _ in range(2):
            await read(client.conversation().generate("the same words"))
        assert private(sent(server, 1)) != private(sent(server, 2))
