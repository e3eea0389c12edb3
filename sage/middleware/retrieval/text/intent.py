"""Which signs of a query are meant as signs, and which are writing.

People who know query syntax write ``python "async generator" -java``. Most others ask: ``When did Melanie read the book
"nothing is impossible"?``, ``what does rm -rf do``, ``TypeError: expected "str", got -1``. There a quotation mark is a
quotation mark, and what must or must not stand in a document is not said. So in what reads as a sentence or as code,
signs are plain; so are numbers with a sign and options of commands anywhere. Signed words behind the end of a sentence
are meant (``how do I tie a tie -youtube``).

The rules were chosen on two lists, of questions and of queries with meant signs: ``tests/…/text/signed_questions.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sage.middleware.retrieval.text.query_parts import SignedPart
from sage.middleware.retrieval.text.sentences import is_function_word, is_sentence

_NUMBER = re.compile(
    r"(?!(?:1\d|20)\d\d$)\d[\d.,:/()x×*^+-]*"
    r"(?:%|‰|°?[CF]?|[kKMGmµn]?(?:V|A|W|Hz|Pa|g|m|s|B)|dBm?|cm|mm|hr?|min|pp|pts?|bps?|th|st|nd|rd|ve)",
)
"""With a unit; a year alone is no such number: ``olympics -2020`` is meant."""
_NO_WORD = re.compile(
    r"[A-Za-z]|[A-Za-z]\d+|ve|(?:rc|alpha|beta|pre|dev)[.-]?\d+|SNAPSHOT|Xm[xsn]\d+\w*|W(?:all|error|extra|no-\S+)"
)
"""An option such as ``-m`` or ``-O2``, ``+ve``, and the end of a version."""
_ENDING = ".,;:!?)]}。，；：！？）"
_COMMAND_NAMES = """
apt apt-get awk bash cargo chmod chown cmake conda cp curl df docker du ffmpeg g++ gcc git grep gzip journalctl kubectl
ln ls mkdir mvn mv netstat nmap npm npx pip pip3 ps pytest rm rsync scp sed sh ssh sudo systemctl tar tcpdump unzip wget
xargs yarn zip zsh
"""
"""Without those that are words of English, such as ``cat``."""
_COMMANDS = frozenset(_COMMAND_NAMES.split())
_SPEAKS_OF_SIGNS = re.compile(
    r"(?:\b(?:suffix|suffixes|prefix|ending|endings|ends|flag|options?|switch|parameter|argument)"
    r"|参数|參數|后缀|後綴|前缀|选项|選項|命令)$",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"(?<!\S)--\w|[{}]|=>|==|</|/>|&&|\$\(|\w\([\"']|=\s?[\"“]|[\"”]\s?:\s|\[\s?\"|;\s*$|^\s*[$>#]\s|```"
    r"|^(?:cat|find|head|make|tail)\s[./~]|(?i:error|exception|warning|fatal|traceback[^:\n]{0,40}|错误|报错|異常|异常)\s?[:：]"
)
_QUOTES_ERROR = re.compile(
    '(?:提示|显示|顯示|报错|報錯|出现|弹出|点击|[他她我们人]说)[:：]?\\s?[“"「『＂]|(?i:\\b(?:says|said|message|prompt)):?\\s["“]'
)
"""What a program or a person said is quoted."""
_IN_SIGNED_CODE = re.compile(r"[\^=(){}\[\]<>|*$\\;]")
_EITHER = re.compile(r"(?<!\S)(?:OR|\|\|?)(?!\S)")


def intended(query: str, parts: Sequence[SignedPart]) -> list[SignedPart]:
    """Those of ``parts`` (:func:`signed_parts` of ``query``) whose signs are meant."""
    candidates = [part for part in parts if not _is_writing(query, part)]
    if not candidates or _is_code(query, parts):
        return []
    if _EITHER.search(query) is not None:  # of another language of queries: each is enough
        return [part for part in candidates if part.sign == "-"]
    rest = _without(query, candidates)
    if not _has_word(rest):
        return candidates if any(part.sign != "-" for part in candidates) else []
    return _behind_the_sentence(query, candidates) if is_sentence(rest) else candidates


def _is_writing(query: str, part: SignedPart) -> bool:
    """Whether the sign belongs to its word: a number, an option, a suffix."""
    if not part.sign or part.phrase:
        return False
    word = part.text.rstrip(_ENDING)
    if _NUMBER.fullmatch(word) is not None or _NO_WORD.fullmatch(word) is not None:
        return True
    return _SPEAKS_OF_SIGNS.search(query[: part.start].rstrip()) is not None


def _is_code(query: str, parts: Sequence[SignedPart]) -> bool:
    """Whether the query is, or holds, a command, a statement, data, or what a program said."""
    if _CODE.search(query) is not None or _QUOTES_ERROR.search(query) is not None:
        return True
    if query.split(maxsplit=1)[0].lower() in _COMMANDS:
        return True
    return any(
        part.sign
        and not part.phrase
        and (
            _IN_SIGNED_CODE.search(part.text.rstrip(_ENDING)) is not None
            or (part.sign == "-" and len(part.text) == 1 and part.text.isascii() and part.text.isalpha())
            or _last_word(query[: part.start].rstrip()) in _COMMANDS
        )
        for part in parts
    )


def _last_word(text: str) -> str:
    return text.rsplit(maxsplit=1)[-1].lower() if text else ""


def _without(query: str, parts: Sequence[SignedPart]) -> str:
    pieces, position = [], 0
    for part in parts:
        pieces.append(query[position : part.start])
        position = part.end
    return " ".join([*pieces, query[position:]])


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _behind_the_sentence(query: str, parts: Sequence[SignedPart]) -> list[SignedPart]:
    """The signed parts at the end of a sentence, behind all plain words."""
    tail: list[SignedPart] = []
    end = len(query)
    for part in reversed(parts):
        if not part.sign or query[part.end : end].strip() or not _is_plain_word(part):
            break
        tail.append(part)
        end = part.start
    before = query[:end].rstrip()
    return tail[::-1] if tail and not is_function_word(_last_word(before)) else []


def _is_plain_word(part: SignedPart) -> bool:
    """Whether it is a word or phrase that can be excluded, not the end of a question or something like ``-xzf``."""
    if part.phrase:
        return True
    if part.text[-1] in _ENDING:
        return False
    if not part.text.isascii():
        return True
    return len(part.text) >= 5 or (len(part.text) >= 3 and re.search("[aeiouyAEIOUY]", part.text) is not None)
