"""Texts as scores compare them: one form for what looks alike, English words, single characters of Chinese."""

from __future__ import annotations

import re
import string
import unicodedata

from sage.middleware.retrieval.text.scripts import normalize, patterns

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_WORDS = re.compile(r"[a-z0-9]+")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_words(text: str) -> list[str]:
    """The words of ``text`` as SQuAD's evaluation compares them: lower case, without punctuation and English articles
    (Rajpurkar et al. 2016, evaluate-v1.1.py). Scripts without spaces give one word a character, as CMRC 2018 has it."""
    text = _without_punctuation(normalize(text).casefold())
    return _split(_ARTICLES.sub(" ", text))


def plain_words(text: str) -> list[str]:
    """The words of ``text`` as ROUGE compares them: lower case, letters and digits only (Lin 2004; the package
    rouge_score, without stems). Scripts without spaces give one word a character."""
    text = normalize(text).casefold()
    if text.isascii():
        return _ASCII_WORDS.findall(text)
    return _split("".join(character if _is_word(character) else " " for character in text))


def _without_punctuation(text: str) -> str:
    text = text.translate(_ASCII_PUNCTUATION)
    if text.isascii():
        return text
    return "".join(character for character in text if unicodedata.category(character)[0] != "P")


def _is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def _split(text: str) -> list[str]:
    if text.isascii():
        return text.split()
    words: list[str] = []
    for match in patterns().mixed.finditer(text):
        words.extend(match[1] if match[1] else match[0].split())
    return words
