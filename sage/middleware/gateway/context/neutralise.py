"""Text that is put before a model: made harmless to chat templates, its tokens estimated, and cut to a size.

Servers make tokens of a whole prompt, the texts in it included. A text that spells a control token of the model
(``<|im_start|>``) could end the user's turn and begin a turn of its own.
"""

from __future__ import annotations

import re

_CONTROL_TOKEN = re.compile(
    r"""
    <(?=[|｜])                                                        # <|im_start|> <|eot_id|> <｜Assistant｜>
    | <(?=/?(?:[a-z]+[0-9]*_[a-z0-9_]*|s|bos|eos|eod|pad|unk|mask|sop|eop|cls|sep|think|thinking|tools|tool|
            observation|function|parameter|image|img|audio|video|unused[0-9]+|0x[0-9a-f]{2})[=>])   # </s> <tool_call>
    | <(?=</?SYS>>)
    | \[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_[A-Z]+|TOOLS?|ARGS|CALL_ID|THINK|IMG|IMG_[A-Z]+|AUDIO|
            MODEL_SETTINGS|PREFIX|MIDDLE|SUFFIX|gMASK|sMASK|MASK|CLS|SEP|PAD|UNK|BOS|EOS)\])
    """,
    re.IGNORECASE | re.VERBOSE,
)
_INVISIBLE = {
    code: None
    for code in (*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\t\n"
} | dict.fromkeys(range(0xE0000, 0xE0080))


def neutralise_control_tokens(text: str) -> str:
    """``text`` in which no chat template finds a control token: a space stands after the first character of each.

    Invisible characters (controls, changes of direction, tags) are removed.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_INVISIBLE)
    return _CONTROL_TOKEN.sub(lambda match: f"{match[0]} ", text)


def estimate_tokens(text: str) -> int:
    """About how many tokens ``text`` takes, rather too many than too few. It asks no model's tokenizer.

    Measured against Gemma 3's: 1.4 to 2.1 times its own count on English prose, 1.4 to 2.4 on Chinese, 1.5 on code, 1
    on numbers, .9 on base64; 2.5 to 5 times on Japanese, Korean, Thai, Arabic and Russian, which older tokenizers make
    more of.
    """
    return int(sum(map(_weight, text))) + 1


def _weight(char: str) -> float:
    if char.islower():
        return 0.3 if char < "\x80" else 1.0
    if char == " ":
        return 0.25
    if char < "\u2e80":
        return 0.8 if "A" <= char <= "Z" else 1.1
    return 1.5 if char < "\U00010000" else 3.0


def cut(text: str, tokens: int) -> str:
    """The beginning of ``text`` that takes at most ``tokens``, up to the end of a sentence if one is near.

    A text that was cut ends with ``…``.
    """
    total = 2.0  # for the sign of the cut
    for position, char in enumerate(text):
        total += _weight(char)
        if total > tokens:
            return _cut_at_sentence(text[:position])
    return text


def _cut_at_sentence(text: str) -> str:
    near = len(text) * 3 // 4
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)|[。！？\n]", text) if match.end() > near]
    if not ends:
        ends = [match.start() for match in re.finditer(r"\s", text) if match.start() > near]
    return (text[: ends[-1]] if ends else text).rstrip() + " …"
