"""What the gateway recognises a chat by, and how it forgets."""

from __future__ import annotations

from del_client.gateway.asked import Said
from del_client.gateway.history import Chat, History
from del_client.gateway.recent import Recent
from del_client.message import Message

ASK, ANSWER, MORE = Said("user", "ask"), Said("assistant", "answer"), Said("user", "more")
SPOKEN = Message("assistant", "answer", public=True, token_ids=(1, 2))


def history() -> History:
    return History(100, 100_000)


def known(found: History, *said: Said, answered: bool = False) -> Chat:
    messages = [Message(one.role, one.text) for one in said]
    chat = Chat().after(*(SPOKEN if answered and one.role == "assistant" else one for one in messages))
    found.keep("", said, chat)
    return chat


def test_the_longest_beginning_with_an_answer_goes_on() -> None:
    found = history()
    known(found, ASK)
    chat = known(found, ASK, ANSWER, answered=True)
    assert found.recall("", [ASK, ANSWER, MORE]) == chat
    assert found.recall("", [ASK, Said("assistant", " answer\n"), MORE]) == chat
    for other in (Said("user", "answer"), Said("assistant", "answer!"), Said("assistant", "Answer")):
        assert found.recall("", [ASK, other, MORE]).name != chat.name


def test_all_of_it_goes_on_without_an_answer_and_an_opening_only_lends_its_bits() -> None:
    found = history()
    chat = known(found, ASK)
    assert found.recall("", [ASK]) == chat
    other = found.recall("", [ASK, MORE])
    assert (other.messages, other.homes) == (chat.messages, (chat.name,))
    assert other.name != chat.name
    assert other.after(Message("user", "more")).homes == (chat.name, other.name)


def test_labels_borders_and_blanks_of_the_users_are_told_apart() -> None:
    found = history()
    known(found, Said("user", "ab"), Said("user", "c"))
    for label, said in (
        ("x", [Said("user", "ab"), Said("user", "c")]),
        ("", [Said("user", "a"), Said("user", "bc")]),
        ("", [Said("user", "abc")]),
        ("", [Said("system", "ab"), Said("user", "c")]),
        ("", [Said("user", "ab"), Said("user", "c ")]),
    ):
        assert found.recall(label, said).messages == ()


def test_two_gateways_hash_otherwise() -> None:
    assert list(history()._places("", [ASK])) != list(history()._places("", [ASK]))


class TestRecent:
    def test_the_longest_unused_goes_first(self) -> None:
        recent: Recent[int] = Recent(2, 100)
        for number in (1, 2):
            recent.put(bytes([number]), number, 1)
        assert recent.get(b"\1") == 1
        recent.put(b"\3", 3, 1)
        assert [recent.get(bytes([number])) for number in (1, 2, 3)] == [1, None, 3]

    def test_weights_add_up_and_are_given_back(self) -> None:
        recent: Recent[int] = Recent(100, 10)
        recent.put(b"a", 1, 6)
        recent.put(b"a", 2, 4)
        recent.put(b"b", 3, 6)
        assert (recent.get(b"a"), recent.get(b"b"), len(recent)) == (2, 3, 2)
        recent.put(b"c", 4, 1)
        assert (recent.get(b"a"), len(recent)) == (None, 2)

    def test_what_weighs_more_than_all_may_is_not_held(self) -> None:
        recent: Recent[int] = Recent(100, 10)
        recent.put(b"a", 1, 11)
        assert (recent.get(b"a"), len(recent)) == (None, 0)
        recent.put(b"b", 2, 10)
        assert recent.get(b"b") == 2
