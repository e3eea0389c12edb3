"""Whether a query is written as people speak, rather than as keywords: by its small words, marks and length.

It is a guess in microseconds, of queries in English and Chinese, and by question marks and frequent words in others.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from sage.middleware.retrieval.text import languages, scripts
from sage.middleware.retrieval.text.tokens import STOP_WORDS

_LONG = 10
"""Words; nobody writes so many keywords."""
_FUNCTION_SHARE = 0.34
_CHARACTERS_A_WORD = 1.6  # of Chinese
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_HAN = re.compile(f"[{scripts.HAN}]")
_QUESTION_MARK = re.compile(r"[?？؟¿]")
_FULL_STOP = re.compile(r"(?:[^\W\d_]{2}|[)\"”])[.!]+\s*$|[。！]\s*$")

_QUESTION_WORDS = """
who whom whose what whats what's when where where's which why how how's who's whos wie was wer wann warum wo welche
welcher welches comment pourquoi quand quel quelle quels quelles qui où cómo qué quién cuándo cuál por como quando onde
perché chi dove
"""
_BEGINNINGS = """
is are was were do does did can could should would will has have had am tell show give explain describe compare please
summarize summarise translate write let i i'm we my
"""
"""First words of questions that begin with a verb, and of requests."""
_OF_SENTENCES = """
i i'm i've i'd me my we our us you your he him his she her they them their is are was were am be been does did do
doesn't didn't don't has have had hasn't haven't can can't cannot could should would will won't isn't aren't wasn't
weren't it's that's there's ist sind war hat haben ich wir est sont suis es son era é são
"""
"""Words of sentences that are rare among keywords."""
_HAN_QUESTION = re.compile(
    "什么|甚么|什麼|哪|谁|誰|怎|为何|為何|为啥|如何|多少|多大|多长|多久|多高|多远|是否|是不是|有没有|能不能|可不可以|"
    "几[个年次位岁种天月]|何时|何地|吗|嗎|呢|^请|^請|^帮我|^我想|^告诉我|ですか|ますか|なぜ|どう|何が|何で"
)
_HAN_FUNCTION = re.compile(
    "[的了是在有被和与将把对从到着过都也就还很让给向所其么这那我你他她它们請请為为說说はがをにでと]"
)


def is_sentence(text: str) -> bool:
    """Whether ``text`` reads as a question, a request or a statement."""
    words = [word.lower().replace("’", "'") for word in _WORD.findall(text) if not scripts.is_unspaced(word[0])]
    han = len(_HAN.findall(text))
    size = len(words) + han / _CHARACTERS_A_WORD
    if size >= _LONG or (size >= 2 and _QUESTION_MARK.search(text) is not None):
        return True
    if size >= 4 and _FULL_STOP.search(text) is not None:
        return True
    return _is_spoken(words) or (han >= 3 and _is_spoken_han(text, han))


def _is_spoken(words: Sequence[str]) -> bool:
    """Of words in alphabets, in small letters."""
    if len(words) < 2:
        return False
    lists = _word_lists()
    if words[0] in lists.questions or (len(words) >= 3 and words[0] in lists.beginnings):
        return True
    if len(words) >= 3 and any(word in lists.of_sentences for word in words):
        return True
    return len(words) >= 5 and sum(map(is_function_word, words)) >= _FUNCTION_SHARE * len(words)


def _is_spoken_han(text: str, size: int) -> bool:
    if _HAN_QUESTION.search(text.strip()) is not None:
        return True
    return size >= 6 and len(_HAN_FUNCTION.findall(text)) >= 2


def is_function_word(word: str) -> bool:
    """Of a word in small letters: whether it is one that sentences of some language are made with (``of``)."""
    return word in _word_lists().function_words


class _WordLists:
    def __init__(self) -> None:
        self.questions = frozenset(_QUESTION_WORDS.split())
        self.beginnings = frozenset(_BEGINNINGS.split())
        self.of_sentences = frozenset(_OF_SENTENCES.split())
        self.function_words = STOP_WORDS | languages.frequent_words()


@functools.cache
def _word_lists() -> _WordLists:
    return _WordLists()
