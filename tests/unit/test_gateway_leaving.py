"""What leaves by way of the gateway, what a turn is charged, and what stays here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from client_fakes import TinyCodec
from gateway_app import Start, answered, said, starting

from del_client import Ledger, Policy

POLICY_OF_KINDS = Policy.from_toml("[kinds.email]")


@pytest.fixture
def start(codec: TinyCodec, tmp_path: Path) -> Start:
    return starting(codec, tmp_path)


class TestWhatLeaves:
    def test_every_role_of_an_app_is_private(self, start: Start) -> None:
        with start("ok") as app:
            texts = ["secret rule", "my words", "made up", "tool result", "go"]
            roles = ["system", "user", "assistant", "tool", "user"]
            app.chat(*({"role": role, "content": text} for role, text in zip(roles, texts, strict=True)))
            assert not [text for text in texts if text in app.public_text()]
            assert app.charged() == sum(map(len, texts))

    def test_allow_listed_texts_are_public_whoever_says_them(self, start: Start) -> None:
        digest = hashlib.sha256(b"You are kind.").hexdigest()
        with start("ok", "ok", public=frozenset({digest})) as app:
            app.chat({"role": "system", "content": "You are kind."}, "hi")
            assert "You are kind." in app.public_text()
            assert app.charged() == 2
            app.chat({"role": "system", "content": "You are kind. "}, "hi")
            assert "kind" not in app.public_text()

    def test_a_turn_is_charged_its_new_text_alone_and_repeats_the_earlier_bits(self, start: Start) -> None:
        with start("Anna it is.", "fine", "good") as app:
            messages = [{"role": "system", "content": "Be brief."}, said("My name is Anna.")]
            charged = len("Be brief.My name is Anna.")
            bits: list[bytes] = []
            for question in ("And now?", "Bye."):
                found = app.chat(*messages)
                assert app.charged() == charged
                assert app.payloads()[: len(bits)] == bits
                bits = app.payloads()
                messages += [answered(found["choices"][0]["message"]["content"]), said(question)]
                charged += len(question)
            found = app.chat(*messages)
            assert app.charged() == charged
            assert (found["del"]["charged_tokens"], found["del"]["private_tokens"]) == (len("Bye."), charged)
            assert "Anna it is." in app.public_text()
            assert "fine" in app.public_text()

    def test_the_same_request_again_costs_nothing(self, start: Start) -> None:
        with start("one", "two") as app:
            app.chat("hi there")
            first = app.payloads()
            found = app.chat("hi there", temperature=1)
            assert (app.payloads(), app.charged()) == (first, len("hi there"))
            assert (found["del"]["charged_tokens"], found["del"]["epsilon_charged"]) == (0, 0)

    def test_a_user_or_a_cache_key_keeps_chats_apart(self, start: Start) -> None:
        with start("one", "two", "three") as app:
            for label in ({}, {"user": "b"}, {"prompt_cache_key": "c"}):
                app.chat("hi", **label)
            assert app.charged() == 3 * len("hi")

    def test_chats_that_only_begin_alike_are_two_conversations(self, start: Start) -> None:
        with start("one", "two") as app:
            rule = {"role": "system", "content": "rule"}
            app.chat(rule, "first")
            app.chat(rule, "second")
            with Ledger(app.ledger) as ledger, ledger.reading() as entries:
                assert len(entries.groups("conversation", 9)) == 2

    def test_an_opening_that_chats_share_is_drawn_once(self, start: Start) -> None:
        with start("one", "two", "three") as app:
            opening = [{"role": "system", "content": "rule"}, said("example"), answered("made up")]
            app.chat(*opening, "first")
            bits = app.payloads()
            found = app.chat(*opening, "second")
            assert app.payloads()[:3] == bits[:3]
            assert found["del"]["charged_tokens"] == len("second")
            again = app.chat(*opening, "second", answered("two"), "third")
            assert again["del"]["charged_tokens"] == len("third")
            assert app.charged() == sum(map(len, ("rule", "example", "made up", "first", "second", "third")))

    def test_an_opening_with_a_secret_in_it_is_shared_by_no_other_chat(self, start: Start) -> None:
        with start("one", "two", policy=POLICY_OF_KINDS) as app:
            rule = {"role": "system", "content": "I am ada@example.org"}
            app.chat(rule, "first")
            found = app.chat(rule, "second")
            assert found["del"]["charged_tokens"] == found["del"]["private_tokens"]

    def test_an_answer_is_known_in_whatever_chat_it_stands(self, start: Start) -> None:
        with start("a long answer", "ok") as app:
            app.chat("hi")
            app.chat("an earlier turn was cut off", answered("a long answer\n"), "go on")
            assert "a long answer" in app.public_text()

    def test_an_answer_that_was_changed_is_private(self, start: Start) -> None:
        with start("a long answer", "ok") as app:
            app.chat("hi")
            app.chat("hi", answered("a long answer!"), "go on")
            assert "long" not in app.public_text()

    def test_what_is_forgotten_is_a_new_conversation(self, start: Start) -> None:
        with start("one", "two", "three", remembered_lists=1) as app:
            app.chat("first")
            app.chat("second")
            app.chat("first")
            assert app.charged() == 2 * len("first") + len("second")

    def test_bits_and_mu_are_asked_for_under_del(self, start: Start) -> None:
        with start("one", "two", "three", options={"mu": 3.0}) as app:
            assert app.chat("hi")["del"]["mu"] == 3
            found = app.chat("ho", **{"del": {"mu": 5, "bits": 2}})["del"]
            assert (found["mu"], found["bits"], found["payload_bytes"]) == (5, 2, 6)
            assert found["epsilon_prompt"] > found["epsilon_token"] > 0
            assert found["epsilon_charged"] == found["epsilon_prompt"]
            weak = app.chat("he", **{"del": {"mu": 50}})["del"]["sentences"]
            assert "is outside of 1 to 40, what the codec was trained for" in weak[-1]

    def test_clear_leaves_in_the_clear_and_says_so(self, start: Start) -> None:
        with start("one") as app:
            found = app.chat("in the clear", **{"del": {"clear": True}})["del"]
            assert "in the clear" in app.public_text()
            assert (found["private_tokens"], found["epsilon_prompt"]) == (0, None)
            assert found["sentences"] == ["No privacy: every token was sent as a public id."]


class TestSecrets:
    def test_a_kind_of_the_policy_stays_here_and_comes_back_in_prose(self, start: Start) -> None:
        with start("Write to [EMAIL_1] or ![x](http://e/[EMAIL_1])", "ok", policy=POLICY_OF_KINDS) as app:
            text = app.chat("I am ada@example.org")["choices"][0]["message"]["content"]
            assert text == "Write to ada@example.org or ![x](http://e/[EMAIL_1])"
            assert "ada" not in app.public_text()
            app.chat("I am ada@example.org", answered(text), "thanks")
            assert "Write to [EMAIL_1] or" in app.public_text()  # the very ids, unrestored
            assert "ada" not in app.public_text()

    def test_an_answer_with_a_secret_in_it_is_known_in_its_own_chat_alone(self, start: Start) -> None:
        with start("Hello [EMAIL_1]", "ok", policy=POLICY_OF_KINDS) as app:
            text = app.chat("I am ada@example.org")["choices"][0]["message"]["content"]
            app.chat("who?", answered(text), "thanks")
            assert "Hello" not in app.public_text()
            assert "ada" not in app.public_text()

    def test_a_placeholder_in_a_shared_opening_is_no_secrets(self, start: Start) -> None:
        with start("one", "It is [EMAIL_1], you are [EMAIL_2]", policy=POLICY_OF_KINDS) as app:
            rule = {"role": "system", "content": "Say [EMAIL_1]"}
            app.chat(rule, "first")
            text = app.chat(rule, "I am ada@example.org")["choices"][0]["message"]["content"]
            assert text == "It is [EMAIL_1], you are ada@example.org"

    def test_marks_are_a_users_and_braces_of_programs_stay(self, start: Start) -> None:
        with start("ok", "ok", "ok") as app:
            app.chat({"role": "system", "content": "Fill {{slot}} and \\{{"}, "I am {{Ada}}")
            assert "[SECRET_1]" in app.public_text()
            assert app.charged() == len("Fill {{slot}} and \\{{") + len("I am ")
            app.chat("code {{ x", **{"del": {"marks": False}})
            assert app.charged() == len("Fill {{slot}} and \\{{") + len("I am ") + len("code {{ x")
            refused = app.post("/v1/chat/completions", messages=[said("code {{ x")])
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")

    def test_control_characters_and_marks_of_direction_are_taken_out(self, start: Start) -> None:
        with start("a\x1b]0;title\x07b\u202ec\x9b\rd\ne\tf", "ok") as app:
            text = app.chat("hi")["choices"][0]["message"]["content"]
            assert text == "a]0;titlebcd\ne\tf"
            app.chat("hi", answered(text), "more")
            assert app.charged() == len("himore")  # known by what the app was given
