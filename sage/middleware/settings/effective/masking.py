"""What of a setting may be shown: never a key, a password or a token, wherever in the configuration it stands.

Secrets have a type of their own, which is always hidden. But a secret may also stand where text does: in the query of
an address, among the arguments of a command, in the parameters of a job. What could be one there is hidden as well: it
is better to hide too much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_core import to_jsonable_python

MASK = "••••••••"
_SECRET_NAME = re.compile(
    r"api[_-]?key|(^|[_.-])(key|auth|pwd|pass|pat|sig)s?($|[_.-])|token|secret|passw|passphrase|authorization|credential|cookie"
    r"|signature|private|bearer",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_TOKEN = re.compile(
    r"\b(?:Bearer|Basic|Token)\s+\S+|\b(?:sk|pk|rk|ak|gsk|ghp|gho|ghs|ghu|github_pat|glpat|xox[abprs]|hf|npm|whsec|AKIA|ASIA|AIza|ya29|eyJ)"
    r"[-_.]?[A-Za-z0-9_./+=-]{8,}"
)
_HARMLESS_ARGUMENT = re.compile(r"-{0,2}\d{1,9}(?:\.\d{1,6})?|true|false|auto|none", re.IGNORECASE)
_OPTION = re.compile(r"(--?[A-Za-z][A-Za-z0-9_-]{0,40})(=.*)?", re.DOTALL)
_LONG_SEGMENT = 16
_COMMANDS = frozenset({"command", "args"})
_HIDDEN_VALUES = frozenset({"environment", "headers"})
"""Mappings all of whose values are hidden."""
_ONLY_HOSTS = frozenset({"url", "webhook"})
"""Addresses whose path may be what lets one in, as those of webhooks are."""
_LEAST_SECRET = 6


def is_secret_name(name: str) -> bool:
    """Whether what bears the name is likely to be a secret."""
    return _SECRET_NAME.search(name) is not None


def masked(path: tuple[str, ...], value: Any) -> tuple[Any, bool]:
    """The JSON of a setting's ``value`` as it may be shown, and whether something of it is hidden."""
    if value is None or isinstance(value, bool):
        return value, False
    shown = _shown(path, value)
    return shown, MASK in str(shown)


def _shown(path: tuple[str, ...], value: Any) -> Any:
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    if isinstance(value, Mapping):
        return {str(name): _shown((*path, str(name)), each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        if path and path[-1] in _COMMANDS:
            return command_shown([str(each) for each in value], with_program=path[-1] == "command")
        return [_shown(path, each) for each in value]
    plain = to_jsonable_python(value)
    if not isinstance(plain, str):
        return plain
    if len(path) > 1 and path[-2] in _HIDDEN_VALUES:
        return MASK
    if path and is_secret_name(path[-1]):
        return MASK if plain else ""
    return text_shown(plain, only_hosts=bool(path) and path[-1] in _ONLY_HOSTS)


def command_shown(words: list[str], *, with_program: bool) -> list[str]:
    """The program, the names of options, and numbers; any other argument may be a secret."""
    program = [text_shown(words[0])] if with_program and words else []
    return program + [_argument_shown(word) for word in words[len(program) :]]


def _argument_shown(word: str) -> str:
    option = _OPTION.fullmatch(word)
    if option is not None and _TOKEN.search(word) is None:
        name, value = option[1], option[2]
        if value is None:
            return name if len(name) <= 2 or word.startswith("--") else MASK  # -pSECRET is one word
        return f"{name}={value[1:] if _HARMLESS_ARGUMENT.fullmatch(value[1:]) else MASK}"
    return word if _HARMLESS_ARGUMENT.fullmatch(word) else MASK


def text_shown(text: str, *, only_hosts: bool = False) -> str:
    """``text`` without the secrets in its addresses, and without what looks like a token."""
    text = _ADDRESS.sub(lambda found: address_shown(found[0], only_host=only_hosts), text)
    return _TOKEN.sub(MASK, text)


def address_shown(address: str, *, only_host: bool = False) -> str:
    """An address without its password, the values of its query, and long parts of its path."""
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return MASK
    if "@" in address.partition("?")[0] and "@" not in parts.netloc:
        return MASK  # a password with a slash in it: what the host is cannot be told
    host = parts.netloc.rpartition("@")[2].removesuffix(port)
    user = f"{MASK}@" if "@" in parts.netloc else ""
    path = parts.path
    if only_host and path.strip("/"):
        path = f"/{MASK}"
    path = "/".join(MASK if _is_long(segment) else segment for segment in path.split("/"))
    query = "&".join(f"{pair.partition('=')[0]}={MASK}" if "=" in pair else MASK for pair in parts.query.split("&"))
    tail = (f"?{query}" if parts.query else "") + (f"#{MASK}" if parts.fragment else "")
    return f"{parts.scheme}://{user}{host}{port}{path}{tail}"


def _is_long(segment: str) -> bool:
    return len(segment) >= _LONG_SEGMENT and any(character.isdigit() for character in segment)


class Redaction:
    """Takes the secrets of a configuration out of sentences, such as what is wrong with it."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({each for each in secrets if len(each) >= _LEAST_SECRET}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text_shown(text)

    def within(self, value: Any) -> Any:
        """``value``, of JSON, without the secrets in its texts."""
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, MASK)
            return value
        if isinstance(value, list):
            return [self.within(each) for each in value]
        if isinstance(value, dict):
            return {name: self.within(each) for name, each in value.items()}
        return value
