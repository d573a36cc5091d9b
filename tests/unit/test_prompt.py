"""What of a prompt is public: never a token that holds any part of a private character."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from del_client.chat_template import MAX_RENDERED_CHARS, ChatTemplate
from del_client.prompt import MAX_PROMPT_CHARS, Message, PromptReader, Span, as_public
from del_client.regions import locate
from del_codec.errors import ArtifactError, InvalidValue, MismatchError

SPECIAL = ["<|im_start|>", "<|im_end|>"]
CORPUS = [
    "user\n\nhello hello <|im_start>user assistant\n\n  the cat sat on the mat. user: hello\n\n\nuser\n\n",
    "naïve café 12345 12345 🙂🙂 日本語 the the the hello: hello\t\thello \n \n end end",
] * 4

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# No special tokens around the content, so the tokenizer may merge it with the template's text on both sides.
BARE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\nthe {% endfor %}assistant:"
TIGHT = "{% for message in messages %}the{{ message.content }}the{% endfor %}"
TRIMMING = CHATML.replace("message['content']", "message['content'] | trim")


def byte_level(trim_offsets: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def merging() -> Tokenizer:
    """No pre-tokenizer, so merges cross spaces and lines; composes characters; marks a text's beginning."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, special_tokens=["<unk>", "<s>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, rstrip=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def dropping() -> Tokenizer:
    """Drops accents, control characters and unknown ones, so that some characters are in no token's range."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=True, lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


BYTE_LEVEL = {trim: byte_level(trim) for trim in (False, True)}
TOKENIZERS = {
    "byte-level": BYTE_LEVEL[False],
    "trimmed": BYTE_LEVEL[True],
    "merging": merging(),
    "dropping": dropping(),
}
TEMPLATES = {"chatml": CHATML, "bare": BARE, "tight": TIGHT, "trimming": TRIMMING}

PIECES = [*"aehlo: \n\t1é日\u0301\u200d\x00🙂", "<|im_end|>", "the ", "user\n", "{{ messages }}"]
contents = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=12)
chats = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), contents, st.booleans()),
    min_size=1,
    max_size=3,
).filter(lambda chat: any(message.content for message in chat))


def flat(spans: list[Span]) -> list[int]:
    return list(itertools.chain.from_iterable(span.token_ids for span in spans))


def rendered(template: str, chat: list[Message]) -> str:
    return ChatTemplate(template).render([{"role": m.role, "content": m.content} for m in chat])


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """What a token of a byte-level vocabulary stands for, read from its name: no offsets involved."""
    name = tokenizer.id_to_token(token)
    return name.encode() if name in SPECIAL else bytes(BYTES[character] for character in name)


def byte_names() -> dict[str, int]:
    """The byte of each character of byte-level names: itself where printable, else the next from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTES = byte_names()


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
@given(chat=chats)
@settings(max_examples=30)
def test_spans_hold_the_tokens_of_the_whole_text(tokenizer: str, template: str, chat: list[Message]) -> None:
    spans = PromptReader(TOKENIZERS[tokenizer], ChatTemplate(TEMPLATES[template])).chat(chat)
    text = rendered(TEMPLATES[template], chat)
    assert flat(spans) == TOKENIZERS[tokenizer].encode(text, add_special_tokens=False).ids
    for before, after in itertools.pairwise(spans):
        assert (before.private, before.message) != (after.private, after.message)


@pytest.mark.parametrize("trim", BYTE_LEVEL)
@pytest.mark.parametrize("template", TEMPLATES)
@given(chat=chats)
@settings(max_examples=80)
def test_no_public_token_holds_a_byte_of_private_content(trim: bool, template: str, chat: list[Message]) -> None:
    spans = PromptReader(BYTE_LEVEL[trim], ChatTemplate(TEMPLATES[template])).chat(chat)
    text, regions = locate(ChatTemplate(TEMPLATES[template]), chat)
    secret = bytearray(len(text.encode()))
    for region in regions:
        first, last = len(text[: region.start].encode()), len(text[: region.end].encode())
        secret[first:last] = b"\x01" * (last - first)
    position = 0
    for span in spans:
        for token in span.token_ids:
            size = len(token_bytes(BYTE_LEVEL[trim], token))
            assert span.private or not any(secret[position : position + size])
            position += size
    assert position == len(secret)


@pytest.mark.parametrize("tokenizer", ["merging", "dropping"])
@given(content=st.text(st.sampled_from("qxz8é\u0301\u0308ﬁ\x00 \n"), min_size=1, max_size=12))
@settings(max_examples=80)
def test_no_public_token_holds_a_character_that_only_the_content_has(tokenizer: str, content: str) -> None:
    template = ChatTemplate(TIGHT)
    spans = PromptReader(TOKENIZERS[tokenizer], template).chat([Message("user", content)])
    names = [TOKENIZERS[tokenizer].id_to_token(token) for span in spans if not span.private for token in span.token_ids]
    assert not set("".join(names)) & set("qxz8éëfi\u0301\u0308")


@given(content=contents.filter(bool))
def test_a_text_without_a_template_is_private_but_for_the_marks_around_it(content: str) -> None:
    tokenizer = TOKENIZERS["merging"]
    if not tokenizer.encode(content, add_special_tokens=False).ids:
        return
    spans = PromptReader(tokenizer, None).text(content)
    assert spans[0] == Span((1,), private=False)
    assert [span.private for span in spans] == [False, True]
    assert flat(spans) == tokenizer.encode(content).ids


class TestLocate:
    def private(self, template: str, *chat: Message) -> list[str]:
        text, regions = locate(ChatTemplate(template), chat)
        return [text[region.start : region.end] for region in regions]

    def test_finds_the_private_contents_alone(self) -> None:
        chat = [Message("system", "be kind", public=True), Message("user", "a"), Message("assistant", "b", public=True)]
        assert self.private(CHATML, *chat, Message("user", "<|im_end|>\n<|im_start|>assistant\n")) == [
            "a",
            "<|im_end|>\n<|im_start|>assistant\n",
        ]

    def test_a_content_that_repeats_the_template_stays_private(self) -> None:
        assert self.private(BARE, Message("user", "\nthe assistant:")) == ["\nthe assistant:"]

    def test_a_content_that_stands_twice_is_private_twice(self) -> None:
        twice = "{% for m in messages %}{{ m.content }} again {{ m.content }}.{% endfor %}"
        assert self.private(twice, Message("user", "x")) == ["x", "x"]

    def test_trimmed_content(self) -> None:
        chat = [Message("user", " \n a b \n"), Message("assistant", "public ", public=True), Message("user", "\tc")]
        assert self.private(TRIMMING, *chat) == ["a b", "c"]

    @pytest.mark.parametrize("change", ["upper", "length", "replace('a', 'b')", "reverse", "tojson", "escape", "first"])
    def test_all_is_private_where_a_template_changes_content(self, change: str) -> None:
        template = CHATML.replace("message['content']", f"message['content'] | {change}")
        chat = [Message("user", 'a "quoted" word'), Message("user", "another")]
        assert self.private(template, *chat) == [rendered(template, chat)]

    def test_text_never_depends_on_content(self) -> None:
        telling = "{% if 'cancer' in messages[0].content %}ill{% else %}well{% endif %} {{ messages[0].content }}"
        for content in ("I have cancer", "I am fine"):
            text, _ = locate(ChatTemplate(telling), [Message("user", content)])
            assert text == f"well {content}"
            assert self.private(telling, Message("user", content)) == [content]

    def test_a_content_that_the_template_drops_leaves_nothing_public(self) -> None:
        last = "start {{ messages[-1].content }} end"
        assert self.private(last, Message("system", "secret"), Message("user", "x")) == ["start x end"]

    def test_an_empty_content_among_others(self) -> None:
        assert self.private(CHATML, Message("user", ""), Message("user", "x")) == ["x"]

    def test_public_messages_alone(self) -> None:
        assert self.private(CHATML, Message("user", "x", public=True)) == []


class TestReader:
    def test_template_marks_are_public_and_words_private(self) -> None:
        reader = PromptReader(TOKENIZERS["byte-level"], ChatTemplate(CHATML))
        spans = reader.chat([Message("user", "hello")])
        texts = [reader.tokenizer.decode(span.token_ids, skip_special_tokens=False) for span in spans]
        assert texts == ["<|im_start|>user\n", "hello", "<|im_end|>\n<|im_start|>assistant\n"]
        assert [span.private for span in spans] == [False, True, False]

    def test_a_token_that_content_and_template_share_is_private(self) -> None:
        reader = PromptReader(TOKENIZERS["byte-level"], ChatTemplate(CHATML))
        spans = reader.chat([Message("user", "\n\nhello")])
        assert reader.tokenizer.decode(spans[0].token_ids, skip_special_tokens=False) == "<|im_start|>user"
        assert reader.tokenizer.decode(spans[1].token_ids) == "\n\n\nhello"

    def test_a_special_token_typed_by_the_user_stays_private(self) -> None:
        reader = PromptReader(TOKENIZERS["byte-level"], ChatTemplate(CHATML))
        spans = reader.chat([Message("user", "a<|im_end|>b")])
        assert reader.tokenizer.token_to_id("<|im_end|>") in spans[1].token_ids
        assert [span.private for span in spans] == [False, True, False]

    def test_public_spans_are_the_same_tokens(self) -> None:
        spans = PromptReader(TOKENIZERS["byte-level"], ChatTemplate(CHATML)).chat([Message("user", "hello")])
        assert as_public(spans) == [Span(tuple(flat(spans)), private=False)]

    def test_a_tokenizer_that_would_cut_or_pad_is_told_not_to(self) -> None:
        tokenizer = Tokenizer.from_str(TOKENIZERS["byte-level"].to_str())
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=64)
        assert len(flat(PromptReader(tokenizer, ChatTemplate(CHATML)).chat([Message("user", "hello " * 9)]))) > 9

    def test_without_a_template_one_message_is_a_text(self) -> None:
        reader = PromptReader(TOKENIZERS["byte-level"], None)
        assert reader.chat([Message("user", "hello")]) == reader.text("hello")
        with pytest.raises(InvalidValue, match="no chat template"):
            reader.chat([Message("system", "a", public=True), Message("user", "b")])

    @pytest.mark.parametrize("chat", [[], [Message("user", "")]])
    def test_an_empty_prompt_is_refused(self, chat: list[Message]) -> None:
        reader = PromptReader(TOKENIZERS["byte-level"], ChatTemplate(CHATML))
        with pytest.raises(InvalidValue, match="prompt is ''"):
            reader.chat(chat)
        with pytest.raises(InvalidValue, match="prompt is ''"):
            reader.text("")

    def test_a_text_without_tokens_is_refused(self) -> None:
        with pytest.raises(InvalidValue, match="no token"):
            PromptReader(TOKENIZERS["dropping"], None).text("\x00")

    def test_what_is_not_unicode_or_too_long_is_refused(self) -> None:
        with pytest.raises(InvalidValue, match="UTF-8"):
            Message("user", "a\udcff")
        with pytest.raises(InvalidValue, match="at most"):
            Message("user", "a" * (MAX_PROMPT_CHARS + 1))
        with pytest.raises(InvalidValue, match="role"):
            Message("root", "a")


class TestTemplate:
    def test_renders_as_transformers_does(self) -> None:
        template = (
            "{% for m in messages %}\n    {% if loop.first %}\n  A\n    {% endif %}\n{{ m.content }}\n{% endfor %}\n\n"
        )
        assert ChatTemplate(template).render([{"role": "user", "content": "x"}]) == "  A\nx\n"

    def test_refuses_syntax_errors_and_what_it_cannot_know(self) -> None:
        with pytest.raises(ArtifactError, match="compiled"):
            ChatTemplate("{% for %}")
        with pytest.raises(MismatchError, match="bos_token"):
            ChatTemplate("{{ bos_token }}{{ messages[0].content }}")
        assert ChatTemplate("{% set bos_token = '<s>' %}{{ bos_token }}").render([]) == "<s>"
        with pytest.raises(ArtifactError, match="characters"):
            ChatTemplate("a" * (1 << 20))

    def test_a_template_that_refuses_the_messages_is_bad_input(self) -> None:
        with pytest.raises(InvalidValue, match="alternate"):
            ChatTemplate("{{ raise_exception('roles must alternate') }}").render([])

    def test_a_template_can_reach_nothing_and_write_no_end(self) -> None:
        with pytest.raises(InvalidValue, match="refuses"):
            ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}").render([])
        with pytest.raises(InvalidValue, match=str(MAX_RENDERED_CHARS)):
            ChatTemplate(
                "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}"
            ).render([])
