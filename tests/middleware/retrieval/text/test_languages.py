"""How far a text is in languages that an embedder speaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval.text.languages import UNKNOWN, language_shares, prevailing_language, share_spoken

ENGLISH = frozenset({"en"})


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of France?", "en"),
        ("error 0x80070057", "en"),
        ("asyncio gather return_exceptions", "en"),
        ("Zürich tram map", "en"),
        ("Deletion of αvβ8 does not result in a spontaneous inflammatory phenotype.", "en"),
        ("Type I and type II vitamin E", "en"),
        ("Wie heißt die Hauptstadt von Frankreich?", "de"),
        ("Quelle est la capitale de la France", "fr"),
        ("¿Cuál es la capital de Francia?", "es"),
        ("Qual é a capital da França e quando foi fundada?", "pt"),
        ("Qual è la capitale della Francia e quando nacque?", "it"),
        ("Hva är huvudstaden och varför?", "sv"),
        ("Stolicą jest Warszawa, która leży nad Wisłą", "pl"),
        ("法国的首都是哪里", "zh"),
        ("日本の首都はどこですか", "ja"),
        ("프랑스의 수도는 어디입니까", "ko"),
        ("Столица Франции", "ru"),
        ("ما هي عاصمة فرنسا", "ar"),
        ("Ποια είναι η πρωτεύουσα", "el"),
        ("നിങ്ങളുടെ പേര് എന്താണ്", "ml"),
        ("iPhone 15 Pro Max", "en"),
        ("based on Redis", "en"),
        ("Đặng Nguyễn Trường", UNKNOWN),
    ],
)
def test_a_text_of_one_language_is_in_it_alone(text: str, language: str) -> None:
    assert language_shares(text) == {language: 1.0}
    assert share_spoken(text, frozenset({language})) == 1.0
    assert share_spoken(text, ENGLISH) == (1.0 if language == "en" else 0.0)


def test_a_mixed_text_counts_by_words() -> None:
    assert 0.3 < share_spoken("Python 的 asyncio 怎么用", ENGLISH) < 0.6
    mostly = share_spoken("How do I translate 你好 into English for my friends?", ENGLISH)
    hardly = share_spoken("苹果公司在二〇〇七年发布的第一代 iPhone 使用了什么处理器和多大的内存", ENGLISH)
    assert mostly > 0.85
    assert 0 < hardly < 0.1
    assert share_spoken("Python 的 asyncio 怎么用", frozenset({"en", "zh"})) == pytest.approx(1)


@pytest.mark.parametrize("text", ["", "12345", "2024-01-01", "😀", "。！？", "+-*/"])
def test_a_text_without_letters_is_spoken_by_all(text: str) -> None:
    assert language_shares(text) == {}
    assert share_spoken(text, ENGLISH) == 1.0


def test_an_embedder_without_declared_languages_speaks_all() -> None:
    assert share_spoken("法国的首都是哪里", None) == 1.0
    assert share_spoken("法国的首都是哪里", frozenset()) == 0.0


@given(st.text(max_size=200))
def test_shares_add_up_for_any_text(text: str) -> None:
    shares = language_shares(text)
    assert all(share > 0 for share in shares.values())
    assert not shares or sum(shares.values()) == pytest.approx(1)
    assert 0 <= share_spoken(text, ENGLISH) <= 1


@given(st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=1))
def test_chinese_text_is_never_english(text: str) -> None:
    assert language_shares(f"{text}，2024 年！") == {"zh": 1.0}


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["The cat sleeps on the sofa.", "README"], "en"),
        (["通勤路线"] * 6 + ["The cat sleeps on the sofa."] * 4, "zh"),  # each text has one vote
        (["通勤路线"] * 2 + ["The cat sleeps on the sofa."] * 8, "en"),
        (["通勤路线", "The cat sleeps on the sofa."], "zh"),  # where both are alike, the other one
        (["SELECT * FROM users WHERE id = 1; -- 查询用户"], "zh"),
        (["def add(a, b):\n    return a + b", "if (a > b) { return false; }"], "en"),
        (['{"name": "张三", "city": "北京"}'], "zh"),
        (["Zhang Wei (张伟) joined the team in 2021 and leads the search group."], "en"),
        (["Gartenschlauch grün 20 m", "Bohrmaschine mit Akku", "Kühlschrank weiß"], "de"),
        (["O gato dorme no sofá da sala"], UNKNOWN),  # words of several languages, none of them English
        (["ਸਤ ਸ੍ਰੀ ਅਕਾਲ"], "pa"),
        (["123", "😀", ""], None),
        ([], None),
    ],
)
def test_most_texts_are_in_one_language(texts: list[str], language: str | None) -> None:
    assert prevailing_language(texts) == language
