"""Which languages a text is in: a guess from its letters and commonest words, in microseconds, without a model.

It answers two questions: how far an embedder that knows some languages can be trusted with a text, and which language
the documents of a collection are mostly in. What it cannot tell counts as English when it is written in plain Latin
letters, and a text without letters as known to all.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Sequence

_EXAMINED = 4000  # characters; the rest of a long text is assumed to be in the same languages
UNKNOWN = "und"
"""ISO 639-2's code of an unknown language."""
_MOST_TEXTS = 200
_BEGINNING = 1000  # characters of each of several texts
_UNCLEAR = 0.2
"""What a name, or a word of code, counts for beside the words of a sentence."""
_VOTE_OF_NAMES = 0.5
_ACCENTED = 0.04
"""The share of words with accents: it is smaller in English, and larger in nearly every other language."""
_CODE = re.compile(r"[{}()\[\]<>=;#$\\|_]")

# First and last code point of a block, and the language (ISO 639-1) that is mostly written in it.
_BLOCKS: dict[str, tuple[tuple[int, int], ...]] = {
    "zh": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
    "ja": ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D)),
    "ko": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    "ru": ((0x0400, 0x052F), (0x1C80, 0x1C8F)),
    "el": ((0x0370, 0x03FF), (0x1F00, 0x1FFF)),
    "he": ((0x0590, 0x05FF),),
    "ar": ((0x0600, 0x06FF), (0x0750, 0x077F), (0x08A0, 0x08FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)),
    "hi": ((0x0900, 0x097F),),
    "bn": ((0x0980, 0x09FF),),
    "ta": ((0x0B80, 0x0BFF),),
    "te": ((0x0C00, 0x0C7F),),
    "th": ((0x0E00, 0x0E7F),),
    "my": ((0x1000, 0x109F),),
    "ka": ((0x10A0, 0x10FF),),
    "am": ((0x1200, 0x139F),),
    "km": ((0x1780, 0x17FF),),
    "hy": ((0x0530, 0x058F),),
    "pa": ((0x0A00, 0x0A7F),),
    "gu": ((0x0A80, 0x0AFF),),
    "or": ((0x0B00, 0x0B7F),),
    "kn": ((0x0C80, 0x0CFF),),
    "ml": ((0x0D00, 0x0D7F),),
    "si": ((0x0D80, 0x0DFF),),
    "lo": ((0x0E80, 0x0EFF),),
    "bo": ((0x0F00, 0x0FFF),),
}
# Languages without spaces between words: about so many characters make a word.
_CHARACTERS_A_WORD = {"zh": 1.6, "ja": 2.0, "th": 4.0, "lo": 4.0, "my": 4.0, "km": 4.0}

# Frequent words of languages in Latin letters. None has one letter, as those are names of things too (type I, vitamin
# E), and a word that two of them share is left out.
_COMMON = {
    "en": "the of and to is that it for with are this from by be not have has was were which or what how does do can "
    "when where who why their they we you between there than but into these been its should would could will did your "
    "my about on come care pro non dove ale till",
    "de": "der die das und ist nicht ein eine einen einem einer mit für auf von dem den des im zu sich auch wie wird "
    "sind bei nach oder über aus haben werden wurde kann warum welche wo wann zwischen ich wir sie es als war "
    "zum zur vom bis noch nur kein keine diese dieser",
    "fr": "le la les des et est une un du dans pour que qui sur avec pas au aux ce cette sont par plus ne se il elle "
    "comment quel quelle où nous vous leur ou mais être été comme d'une l'on quels quelles pourquoi",
    "es": "el los las es una un del para que con por como qué cómo cuál dónde cuándo se su sus al lo más pero fue "
    "son esta este está no quién entre sobre",
    "pt": "os as é uma um do da dos das para que com por como não em no na nos nas se mais mas foi são ao qual quais "
    "onde quando você seu sua pelo pela",
    "it": "il lo gli è una un di del della dei delle per che con come non si nel nella sono più ma anche quale dove "
    "quando perché alla al dal cosa questo questa",
    "nl": "het een van en is niet met voor op zijn aan te dat die er ook wordt door bij naar hoe wat waar waarom welke "
    "deze kan worden heeft was maar uit",
    "sv": "och att det som en på är av för med den till inte om ett har de var hur vad från kan när eller",
    "da": "og at det som en på er af for med den til ikke om et har de var hvad hvordan fra kan når eller blev",
    "pl": "na jest nie się do to że co jak są dla przez po czy od który która które oraz jego",
    "cs": "na je se že do jak pro které který která jsou co nebo ale při po jako byl",
    "tr": "ve bir bu için ile ne nasıl mi mı daha çok olan olarak da de nedir gibi kadar en var hangi",
    "vi": "và của là có được trong cho một các những không với này đã người khi để như thế nào gì ở",
    "id": "yang dan di untuk dengan dari pada adalah ini itu tidak apa bagaimana dalam akan oleh atau ke juga",
    "fi": "ja on ei että se oli joka ovat mutta kuin myös miten mikä kun hän tai sen",
    "ro": "și este în la cu pentru care nu din pe mai sunt ce cum sau fost prin unde ale",
    "hu": "és az hogy nem egy is van mi meg de ez vagy milyen hogyan volt mint",
    "hr": "koji koja nije kao iz ili što",
    "lt": "ir yra kad iš kaip bet",
    "sw": "ya wa kwa ni katika za kuwa hii",
    "tl": "ang ng mga sa ay hindi ito",
}
_ALSO_ENGLISH = "al co con das de den die do en es et la mi na no se van var"
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+")


def share_spoken(text: str, languages: frozenset[str] | None) -> float:
    """How much of ``text`` is in ``languages`` (ISO 639-1), from 0 to 1: by words, or what stands for them.

    ``None`` means every language, so 1. A text without letters gives 1 as well.
    """
    if languages is None:
        return 1.0
    shares = language_shares(text)
    return sum(share for language, share in shares.items() if language in languages) if shares else 1.0


def language_shares(text: str) -> dict[str, float]:
    """The share of each language in the words of ``text``; they add up to 1. Empty for a text without letters."""
    text = text[:_EXAMINED]
    latin = _LATIN_WORD.findall(text)
    words: dict[str, float] = {} if text.isascii() else _words_by_script(text)
    if latin:
        language = _latin_language(latin)
        words[language] = words.get(language, 0.0) + len(latin)
    total = sum(words.values())
    return {language: count / total for language, count in words.items()}


def prevailing_language(texts: Iterable[str]) -> str | None:
    """The language that most of ``texts`` are in; ``None`` when none of them has letters. Where English and another
    have equally many, it is the other.

    Each text has one vote, which its languages share; names and code, which may stand in a text of any language, have
    a smaller one.
    """
    votes: dict[str, float] = {}
    unclear: list[str] = []
    unclear_votes = 0.0
    for text in itertools.islice(texts, _MOST_TEXTS):
        words, others = _words_of(text[:_BEGINNING])
        total = sum(words.values()) + _UNCLEAR * len(others)
        for language, count in words.items():
            votes[language] = votes.get(language, 0.0) + count / total
        if others:
            unclear += others
            unclear_votes += _UNCLEAR * len(others) / total if words else _VOTE_OF_NAMES
    if unclear:
        language = _frequent_language(unclear) or _language_of_names(unclear)
        votes[language] = votes.get(language, 0.0) + unclear_votes
    return max(votes, key=lambda language: (votes[language], language != "en")) if votes else None


def _words_of(text: str) -> tuple[dict[str, float], list[str]]:
    """The number of words by language, and those in Latin letters that may stand in a text of any language."""
    words: dict[str, float] = {} if text.isascii() else _words_by_script(text)
    latin = _LATIN_WORD.findall(text)
    language = _frequent_language(latin) if latin else None
    if language is None or 4 * len(_CODE.findall(text)) > len(latin):
        return words, latin
    words[language] = words.get(language, 0.0) + len(latin)
    return words, []


def _words_by_script(text: str) -> dict[str, float]:
    """The number of words in other than Latin letters, roughly, by language."""
    words: dict[str, float] = {}
    for language, pattern in _scripts().items():
        if runs := pattern.findall(text):
            per_word = _CHARACTERS_A_WORD.get(language)
            # A single letter is a symbol in a text of another language, such as a Greek one in English.
            count = sum(len(run) > 1 for run in runs) if per_word is None else sum(map(len, runs)) / per_word
            if count:
                words[language] = count
    if "ja" in words and "zh" in words:  # Chinese characters beside kana are Japanese
        words["ja"] += words.pop("zh")
    return words


@functools.cache
def _scripts() -> dict[str, re.Pattern[str]]:
    return {
        language: re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in blocks) + "]+")
        for language, blocks in _BLOCKS.items()
    }


@functools.cache
def _common_words() -> dict[str, str]:
    """The frequent words that belong to one language only, and that language."""
    return {word: languages[0] for word, languages in _owners().items() if len(languages) == 1}


@functools.cache
def frequent_words() -> frozenset[str]:
    """The frequent words of all languages in Latin letters, in small letters."""
    return frozenset(_owners())


@functools.cache
def _shared_words() -> frozenset[str]:
    """The frequent words of several languages that are no English words."""
    shared = {word for word, languages in _owners().items() if len(languages) > 1 and "en" not in languages}
    return frozenset(shared - set(_ALSO_ENGLISH.split()))


@functools.cache
def _owners() -> dict[str, list[str]]:
    """The languages of each frequent word."""
    owners: dict[str, list[str]] = {}
    for language, words in _COMMON.items():
        for word in words.split():
            owners.setdefault(word, []).append(language)
    return owners


def _latin_language(words: Sequence[str]) -> str:
    """The language of ``words``, those of one text. English when none is to be seen, and most words have no accent."""
    if (language := _frequent_language(words)) is not None:
        return language
    return UNKNOWN if 2 * _accented(words) > len(words) else "en"


def _frequent_language(words: Sequence[str]) -> str | None:
    """The language with the most frequent words among ``words``; ``None`` when there are hardly any: names and
    abbreviations. In a sentence, about one word in five is a frequent one."""
    common = _common_words()
    counts: dict[str, int] = {}
    for word in words:
        if (language := common.get(word.lower())) is not None:
            counts[language] = counts.get(language, 0) + 1
    best = max(counts.values(), default=0)
    if best * 8 < len(words):
        return None
    return "en" if counts.get("en") == best else max(counts, key=lambda language: counts[language])


def _language_of_names(words: Sequence[str]) -> str:
    """Of words among which no language has many frequent ones: not English where the frequent words of several other
    languages, or accents, are many."""
    accented = _accented(words)
    many = _ACCENTED * len(words) if accented > 1 else len(words) / 8
    foreign = sum(word.lower() in _shared_words() for word in words)
    return UNKNOWN if accented > many or 8 * foreign > len(words) else "en"


def _accented(words: Sequence[str]) -> int:
    return sum(not word.isascii() for word in words)
