"""The shipped model behind the chat template ``conversation``: plain greetings and chats of several turns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from running_gateway import run_gateway

from sage.middleware.providers.local.conversation import set_frame
from sage.middleware.settings.settings import Settings

MODEL = "gemma-3-270m"
ENGLISH = (
    *("hi", "Hi!", "hello", "HELLO", "hey", "hey there", "howdy", "greetings", "hello world", "Good morning"),
    *("Good evening!", "good night", "How are you?", "how's it going", "What's up?", "Nice to meet you.", "thanks"),
    *("Thank you very much!", "bye", "Goodbye", "see you tomorrow", "Who are you?", "What can you do?", "yo", "test"),
)
CHINESE = (
    *(
        "你好",
        "您好",
        "嗨",
        "你好！",
        "你好呀",
        "哈喽",
        "早上好",
        "下午好！",
        "晚上好",
        "晚安",
        "大家好",
        "在吗",
        "在吗？",
    ),
    *(
        "你好吗？",
        "最近怎么样？",
        "谢谢",
        "谢谢你的帮助",
        "再见",
        "很高兴认识你",
        "你是谁？",
        "你叫什么名字？",
        "早",
        "喂",
        "嘿",
    ),
)
CHATS = [
    (["My name is Anna.", "Nice to meet you, Anna!", "What is my name?"], "Anna"),
    (["I live in Berlin.", "Berlin is a beautiful city.", "Where do I live?"], "Berlin"),
    (["What is the capital of France?", "Paris", "And what is the capital of Germany?"], "Berlin"),
    (["我叫小明。", "你好，小明！", "我叫什么名字？"], "小明"),
    (["我住在上海。", "上海是一座美丽的城市。", "我住在哪里？"], "上海"),
]


def messages(turns: list[str]) -> list[Any]:
    return [{"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)]


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    data = {"data_dir": tmp_path_factory.mktemp("data"), "api": {"port": 0, "access_log": False}}
    llm = {"providers": {"local": {"timeouts": {"first_byte": 500}}}}  # beside busy processors
    with (
        run_gateway(Settings.model_validate({**data, "llm": llm})) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0, timeout=500) as client,
    ):
        yield client


def answer(sdk: openai.OpenAI, chat: list[Any]) -> str:
    choice = sdk.chat.completions.create(model=MODEL, messages=chat).choices[0]
    assert choice.finish_reason == "stop", "it ends by itself"
    return choice.message.content or ""


@pytest.mark.slow
@pytest.mark.parametrize(("greetings", "is_chinese"), [(ENGLISH, False), (CHINESE, True)], ids=["english", "chinese"])
@pytest.mark.parametrize("system", [None, "You are a helpful assistant."], ids=["alone", "with a system message"])
def test_every_greeting_is_answered_in_its_language(
    sdk: openai.OpenAI, greetings: tuple[str, ...], is_chinese: bool, system: str | None
) -> None:
    before = [] if system is None else [{"role": "system", "content": system}]
    every = 1 if os.environ.get("SAGE_TEST_FULL") else 3
    answers = {each: answer(sdk, [*before, *messages([each])]) for each in greetings[bool(system) :: every]}
    silent = [each for each, text in answers.items() if not re.search(r"\w", text)]
    assert silent == []
    assert {each: text for each, text in answers.items() if bool(re.search("[一-鿿]", text)) != is_chinese} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("turns", "word"), CHATS)
def test_a_chat_of_several_turns_is_followed(sdk: openai.OpenAI, turns: list[str], word: str) -> None:
    assert word in answer(sdk, messages(turns))


@pytest.mark.slow
@pytest.mark.parametrize(("question", "word"), [("What is the capital of France?", "Paris"), ("hi", "Hi")])
def test_a_stream_says_the_same(sdk: openai.OpenAI, question: str, word: str) -> None:
    chunks = sdk.chat.completions.create(model=MODEL, messages=messages([question]), stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith(word)
    assert text == answer(sdk, messages([question]))


@pytest.mark.parametrize(
    ("content", "is_chinese"),
    [
        ("你好", True),
        ("hello 你好", True),
        ("Hello", False),
        ("何ですか", False),
        ("[1] 龙井茶产于杭州西湖。\n\nWhere does the tea come from?", False),
        ("[1] The base is called Selene.\n\n基地叫什么？\n", True),
        ([{"type": "text", "text": "Hello"}, {"type": "text", "text": "你好"}], True),
        ([{"type": "text", "text": "你好"}, {"type": "text", "text": "Hello"}], False),
        (None, False),
        ([], False),
    ],
)
def test_the_last_line_decides_the_language_of_the_frame(content: Any, is_chinese: bool) -> None:
    body = {
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "好"}],
        "chat_template_kwargs": {"more": 1},
    }
    set_frame(body)
    assert body["chat_template_kwargs"] == {"more": 1, **({"chinese": True} if is_chinese else {})}
    empty: dict[str, Any] = {"messages": [{"role": "system", "content": "你好"}]}
    set_frame(empty)
    assert "chat_template_kwargs" not in empty


def test_an_answer_under_a_grammar_gets_no_frame() -> None:
    body: dict[str, Any] = {"messages": messages(["你好"])}
    set_frame(body, plain=True)
    assert body["chat_template_kwargs"] == {"plain": True}
