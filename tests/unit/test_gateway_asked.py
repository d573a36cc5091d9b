"""What the gateway takes of a request and what it refuses, by the name of the field."""

from __future__ import annotations

import json
from inspect import signature
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.resources import Completions as TextCompletions
from openai.resources.chat import Completions

from del_client.gateway.asked import MAX_CHOICES, MAX_MESSAGES, Said, read_chat, read_text
from del_client.gateway.bodies import parse
from del_client.gateway.errors import ApiError
from del_client.gateway.settings import GatewaySettings

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "tiny", "prompt": "hi"}


def refusal(read: Any, body: dict[str, Any]) -> tuple[str | None, str | None]:
    with pytest.raises(ApiError) as refused:
        read(body)
    assert refused.value.status == 400
    error = refused.value.body["error"]
    assert error["type"] == "invalid_request_error"
    return error["param"], error["code"]


def test_options_come_under_openais_names_and_the_rest_under_del() -> None:
    asked = read_chat(
        CHAT
        | {"max_completion_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": -1, "stop": "a", "n": 2}
        | {"logprobs": True, "top_logprobs": 3, "user": "u", "stream": True, "stream_options": {"include_usage": True}}
        | {"del": {"mu": 4, "bits": 2, "clear": True, "top_k": 7, "repetition_penalty": 1.2, "marks": False}}
    )
    assert asked.options == {
        "max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": (1 << 64) - 1, "stop": ["a"], "logprobs": 3,
        "mu": 4.0, "bits": 2, "clear": True, "top_k": 7,
        "repetition_penalty": 1.2,
    }  # fmt: skip
    assert (asked.choices, asked.stream, asked.usage, asked.marks, asked.label) == (2, True, True, False, "u\0\0")


def test_what_is_not_named_is_left_to_the_device_and_choices_differ_in_their_seed() -> None:
    settings = GatewaySettings(options={"temperature": 0.7, "mu": 5.0})
    assert read_chat(CHAT).options == {}
    assert read_chat(CHAT).options_of(1, settings) == {"temperature": 0.7, "mu": 5.0}
    asked = read_chat(CHAT | {"temperature": 0, "seed": (1 << 64) - 1})
    assert [asked.options_of(choice, settings)["seed"] for choice in (0, 1)] == [(1 << 64) - 1, 0]
    assert asked.options_of(0, settings)["temperature"] == 0


def test_roles_and_parts_of_contents() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "s", "refusal": None, "tool_calls": None, "audio": None},
        {"role": "tool", "content": "t", "tool_call_id": "1"},
    ]
    assert read_chat(CHAT | {"messages": messages}).messages == (
        Said("system", "d"), Said("user", "a\nb"), Said("assistant", "s"), Said("tool", "t"),
    )  # fmt: skip


def test_values_that_ask_for_nothing_are_taken() -> None:
    nothing = {
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "none",
        "response_format": {"type": "text"}, "store": False, "metadata": None, "parallel_tool_calls": True,
    }  # fmt: skip
    assert read_chat(CHAT | nothing) == read_chat(CHAT)
    assert read_text(TEXT | {"echo": False, "suffix": None, "best_of": 1}) == read_text(TEXT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("logit_bias", {"42": -100}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("reasoning_effort", "high"),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}),
        ("service_tier", "flex"),
    ],
)
def test_what_cant_be_served_is_refused_by_name(field: str, value: Any) -> None:
    assert refusal(read_chat, CHAT | {field: value}) == (field, "unsupported_parameter")


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"top_k": 5}, "top_k", "unknown_parameter"),
        ({"del": {"noise": 5}}, "del.noise", "unknown_parameter"),
        ({"del": 5}, "del", "invalid_type"),
        ({"del": {"mu": "5"}}, "del.mu", "invalid_type"),
        ({"del": {"mu": 10**400}}, "del.mu", "invalid_value"),
        ({"del": {"bits": 9}}, "del.bits", "invalid_value"),
        ({"del": {"marks": "no"}}, "del.marks", "invalid_type"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": 10**400}, "temperature", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": MAX_CHOICES + 1}, "n", "invalid_value"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
        ({"seed": 1 << 64}, "seed", "invalid_value"),
        ({"stop": ["a", 5]}, "stop", "invalid_type"),
        ({"stop": list("abcde")}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logprobs": 2}, "logprobs", "invalid_type"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{}] * (MAX_MESSAGES + 1)}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "boss", "content": "hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": "hi", "name": "Ada"}]}, "messages[0].name", "unsupported_parameter"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            "messages[0].tool_calls",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages[0].content[0].text",
            "invalid_type",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(changes: dict[str, Any], param: str, code: str) -> None:
    assert refusal(read_chat, CHAT | changes) == (param, code)


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": [1, 2, 3]}, "prompt", "invalid_type"),
        ({"prompt": ["a"] * 17}, "prompt", "invalid_value"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"best_of": 3}, "best_of", "unsupported_value"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"messages": []}, "messages", "unknown_parameter"),
    ],
)
def test_texts_are_checked_likewise(changes: dict[str, Any], param: str, code: str) -> None:
    assert refusal(read_text, TEXT | changes) == (param, code)


def test_a_mass_of_nothing_is_the_likeliest_token_always() -> None:
    assert read_chat(CHAT | {"top_p": 0, "temperature": 1.5}).options == {"temperature": 0.0}


@pytest.mark.parametrize(
    ("create", "read", "needed"), [(Completions.create, read_chat, CHAT), (TextCompletions.create, read_text, TEXT)]
)
def test_every_parameter_of_openais_client_is_known(create: Any, read: Any, needed: dict[str, Any]) -> None:
    parameters = set(signature(create).parameters) - {"self", "timeout", "extra_headers", "extra_query", "extra_body"}
    assert len(parameters) > 15
    answers = {name: refused(read, needed | {name: {"no such": "value"}}) for name in parameters}
    assert [name for name, error in answers.items() if error and error.code == "unknown_parameter"] == []


def test_texts_have_openais_default_length() -> None:
    assert read_text(TEXT).options == {"max_new_tokens": 16}
    assert read_text(TEXT | {"prompt": ["a", "b"], "logprobs": 0}).prompts == ("a", "b")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": NaN}',
        b'{"a": "\\ud800"}',
        b'{"\\udc00": 1}',
        b"\xff\xfe{}",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' * 100_000,
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
def test_what_is_no_json_object_of_whole_characters_is_refused(data: bytes) -> None:
    assert refusal(parse, data) == (None, "invalid_json")  # type: ignore[arg-type]


def test_escaped_characters_are_read() -> None:
    assert parse(json.dumps({"a": "é😀"}).encode()) == {"a": "é😀"}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_PART = st.fixed_dictionaries({}, optional={"type": st.just("text") | _JSON, "text": st.text() | _JSON, "x": _JSON})
_MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "system", "assistant", "tool"]) | _JSON,
        "content": st.text() | st.lists(_PART) | _JSON,
        **dict.fromkeys(("name", "tool_calls", "refusal"), _JSON),
    },
)
_BODY = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text() | _JSON,
        "messages": st.lists(_MESSAGE, max_size=3) | _JSON,
        "prompt": st.text() | st.lists(st.text(), max_size=3) | _JSON,
        "del": st.dictionaries(st.sampled_from(["mu", "bits", "clear", "marks", "top_k", "x"]), _JSON) | _JSON,
        "stream_options": st.dictionaries(st.sampled_from(["include_usage", "x"]), _JSON) | _JSON,
        **dict.fromkeys(
            ("n", "stop", "seed", "stream", "logprobs", "top_logprobs", "max_tokens", "temperature", "tools", "user"),
            _JSON,
        ),
    },
)


def refused(read: Any, body: dict[str, Any]) -> ApiError | None:
    try:
        read(body)
    except ApiError as error:
        return error
    return None


@given(_BODY)
def test_whatever_comes_is_read_or_refused_by_name(body: dict[str, Any]) -> None:
    for error in (refused(read_chat, body), refused(read_text, body)):
        assert error is None or (error.status == 400 and error.body["error"]["param"])
