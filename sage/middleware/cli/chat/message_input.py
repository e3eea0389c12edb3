"""Where the messages of ``sage chat`` come from: a terminal with history and pasted lines, or a pipe."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import platformdirs
import typer

from sage.middleware.cli.language.catalogue import _

_PROMPT, _CONTINUATION = ">>> ", "... "
_QUOTES = '"""'
_REMEMBERED = 1000
_PASTE_PAUSE = 0.03
"""Seconds without input after which pasted lines have all come, where the terminal does not mark a paste."""


class MessageInput(ABC):
    '''Messages: each line is one, and so is a block of lines between """ and """.'''

    def messages(self) -> Iterator[str]:
        """Ends with the end of the input (Ctrl-D)."""
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> str | None:
        line = self._line(continues=False)
        if line is None or not line.startswith(_QUOTES):
            return line
        block = [line.removeprefix(_QUOTES)]
        while _QUOTES not in block[-1]:
            following = self._line(continues=True)
            if following is None:
                break
            block.append(following)
        return "\n".join(block).partition(_QUOTES)[0].strip("\n")

    @abstractmethod
    def _line(self, *, continues: bool) -> str | None:
        """The next line; ``None`` means that there is no more. ``continues``: a block goes on with it."""


class PipedInput(MessageInput):
    """The lines of a pipe, which are UTF-8 in every locale."""

    def _line(self, *, continues: bool) -> str | None:
        line = sys.stdin.buffer.readline()
        return line.decode("utf-8", "replace").rstrip("\r\n") if line else None


class TerminalInput(MessageInput):
    """A line editor with history, which is kept in a file of the user. A pasted text is one message."""

    def __init__(self, commands: Sequence[str]) -> None:
        """``commands`` are completed with the tab key."""
        self._readline = _readline()
        self._history = Path(platformdirs.user_state_dir("sage", appauthor=False)) / "chat_history"
        self._marks_pastes = False
        if self._readline is not None:
            self._marks_pastes = _configure(self._readline, commands)
            with contextlib.suppress(OSError):
                self._readline.read_history_file(self._history)

    def close(self) -> None:
        """Keeps the history, in a file that only its owner can read."""
        if self._readline is None:
            return
        self._readline.set_history_length(_REMEMBERED)
        with contextlib.suppress(OSError):
            self._history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._history, os.O_WRONLY | os.O_CREAT, 0o600))
            self._readline.write_history_file(self._history)

    def _next(self) -> str | None:
        """As for every input. Ctrl-C leaves the message that is being typed."""
        while True:
            try:
                return super()._next()
            except KeyboardInterrupt:
                typer.echo("\n" + _("Ctrl-D or /exit leaves."))

    def _line(self, *, continues: bool) -> str | None:
        try:
            lines = [input(_CONTINUATION if continues else _PROMPT)]
            while not self._marks_pastes and select.select([sys.stdin], [], [], _PASTE_PAUSE)[0]:
                lines.append(input())
        except EOFError:
            typer.echo()
            return None
        return "\n".join(lines)


def _readline() -> ModuleType | None:
    """The line editor of Python; ``None`` means that this Python has none."""
    try:
        import readline
    except ImportError:
        return None
    return readline


def _configure(readline: ModuleType, commands: Sequence[str]) -> bool:
    """Sets completion and pasting; tells whether the terminal's marks around a paste are read."""

    def complete(text: str, state: int) -> str | None:
        matches = [command for command in commands if command.startswith(text)] if text.startswith("/") else []
        return matches[state] if state < len(matches) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n")
    if "libedit" in (readline.__doc__ or ""):
        readline.parse_and_bind("bind ^I rl_complete")
        return False
    readline.parse_and_bind("tab: complete")
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True
