"""``sage chat``: a conversation with a model in the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Annotated, Any

import typer

from sage.errors import CallFailed, NotFound, SageError
from sage.middleware.cli.chat.conversation import Conversation, Piece
from sage.middleware.cli.chat.message_input import PipedInput, TerminalInput
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated
from sage.middleware.cli.output import Temperature, plain
from sage.middleware.cli.progress import waiting_for
from sage.middleware.client.connection import Client, connect, set_options

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal would obey."""
_GREY, _NORMAL = "\x1b[2m", "\x1b[22m"


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model's name, as 'sage models list' shows it, or provider/model. Without it, one that is loaded.",
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is told before the conversation.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End each answer after this many tokens.")
    ] = None,
    temperature: Temperature = None,
) -> None:
    """Chat with a model. From a pipe, each line is one message, and only the answers are printed."""
    client = connect()
    options = set_options({"max_tokens": max_tokens, "temperature": temperature})
    conversation = Conversation(client, model or _default_model(client), system, options)
    if sys.stdin.isatty():
        _at_terminal(conversation)
    else:
        _from_pipe(conversation)


def _default_model(client: Client) -> str:
    """Of the models that chat the loaded one that was used last, else one of this gateway's own engine, else any."""
    models = client.get("/models").get("models", [])
    ranked = sorted(
        models,
        key=lambda m: (m["state"] == "ready", m["last_used"] or 0, any(map(_is_local, m["deployments"]))),
        reverse=True,
    )
    for model in ranked:
        explained = client.post(f"/models/{model['name']}/explain")
        if any(candidate.get("usable") for candidate in explained.get("candidates", ())):
            return str(model["name"])
    raise NotFound("this gateway has no registered model that chats; name one: sage chat PROVIDER/MODEL")


def _is_local(deployment: Mapping[str, Any]) -> bool:
    return deployment.get("kind") == "local"


def _at_terminal(conversation: Conversation) -> None:
    commands = _Commands(conversation)
    commands.check_model(conversation.model)
    source = TerminalInput(commands.names)
    typer.echo(
        _("{model} at {url}. /help lists the commands, Ctrl-D leaves.").format(
            model=plain(conversation.model), url=conversation.client.url
        )
    )
    with closing(source):
        for message in source.messages():
            try:
                if commands.is_one(message):
                    if not commands.run(message):
                        return
                elif message.strip():
                    _print_answer(conversation, message)
            except SageError as exc:
                typer.echo(f"sage: {translated(exc.message)}", err=True)
            except KeyboardInterrupt:
                typer.echo("\n" + _("(stopped)"), err=True)


def _from_pipe(conversation: Conversation) -> None:
    """A turn that fails ends the command: what follows would answer to something that was not said."""
    commands = _Commands(conversation)
    for message in PipedInput().messages():
        if commands.is_one(message):
            if not commands.run(message):
                return
        elif message.strip():
            _print_answer(conversation, message)


def _print_answer(conversation: Conversation, message: str) -> None:
    message = message.removeprefix("/") if message.startswith("//") else message
    with closing(_pieces(conversation, message)) as pieces:
        shows_reasoning, in_reasoning, has_text = sys.stdout.isatty(), False, False
        for piece in pieces:
            if piece.reasoning and not shows_reasoning:
                continue
            if piece.reasoning != in_reasoning:
                typer.echo(_GREY if piece.reasoning else f"{_NORMAL}\n", nl=False)
                in_reasoning = piece.reasoning
            text = piece.text if has_text or piece.reasoning else piece.text.lstrip()
            has_text = has_text or bool(text and not piece.reasoning)
            typer.echo(_CONTROL.sub("", text), nl=False)
            sys.stdout.flush()
        typer.echo(_NORMAL if in_reasoning else "")
    if conversation.cut:
        typer.echo(_("(the answer reached its limit of tokens)"), err=True)
    elif not has_text:
        typer.echo(_("sage: the model answered with no text"), err=True)


def _pieces(conversation: Conversation, message: str) -> Generator[Piece]:
    """The answer; until it begins, which may take the loading of a model, a terminal shows the time."""
    with closing(conversation.ask(message)) as answer:
        with waiting_for(conversation.model):
            first = next(answer, None)
        if first is not None:
            yield first
            yield from answer


class _Commands:
    """What begins with a slash."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._commands: dict[str, Callable[[str], None]] = {
            "/model": self._model,
            "/system": self._system,
            "/clear": self._clear,
            "/help": self._help,
            "/?": self._help,
        }
        self._exits = ("/exit", "/quit", "/bye")

    @property
    def names(self) -> list[str]:
        return sorted([*self._commands, *self._exits])

    def is_one(self, message: str) -> bool:
        """Whether it is a command: one line that begins with one slash."""
        return message.startswith("/") and not message.startswith("//") and "\n" not in message

    def run(self, message: str) -> bool:
        """Tells whether the conversation goes on."""
        name, _, rest = message.strip().partition(" ")
        if name in self._exits:
            return False
        command = self._commands.get(name)
        if command is None:
            raise NotFound(f"there is no command '{plain(name)}'; /help lists them")
        command(rest.strip())
        return True

    def check_model(self, name: str) -> None:
        """Raises for a model that there is not. A key that may not read the models learns it with the next message."""
        try:
            self._conversation.client.get(f"/models/{name}")
        except CallFailed as exc:
            if exc.answer_status != 403:
                raise

    def _model(self, name: str) -> None:
        conversation = self._conversation
        if name:
            self.check_model(name)
            conversation.model = name
            typer.echo(_("The model is {name}.").format(name=plain(name)), err=True)
            return
        typer.echo(_("The model is {name}.").format(name=plain(conversation.model)))
        models = conversation.client.get("/models").get("models", [])
        names = ", ".join(plain(model["name"]) for model in models)
        typer.echo(_("Registered: {names}").format(names=names or "-"))

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = None if text == "none" else text
        typer.echo(self._conversation.system or _("There is no system prompt."), err=bool(text))

    def _clear(self, rest: str) -> None:
        self._conversation.clear()
        typer.echo(_("The conversation is empty."), err=True)

    def _help(self, rest: str) -> None:
        typer.echo(
            _(
                "/model          show the model in use, and those that there are\n"
                "/model NAME     go on with another model\n"
                "/system         show the system prompt\n"
                "/system TEXT    set it; /system none removes it\n"
                "/clear          forget what was said\n"
                "/help           show this list\n"
                "/exit           leave; so does Ctrl-D\n"
                'Ctrl-C stops an answer. Lines between """ and """ are one message, and so is a pasted text.\n'
                "A message that begins with a slash is written with two."
            )
        )
