"""``sage import …``: makes our configuration of another program's."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from sage.errors import ConfigError
from sage.middleware.cli.config import write_config
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated
from sage.middleware.cli.output import plain
from sage.middleware.settings.reading import load_settings
from sage.private_files import write_private

if TYPE_CHECKING:
    from sage.middleware.cli.litellm.conversion import Conversion
    from sage.middleware.cli.litellm.report import ConversionReport
    from sage.middleware.cli.one_api.channel_types import ChannelType

import_app = typer.Typer(help="Convert the configuration of another program.", no_args_is_help=True)


Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The configuration to write; '-' is standard output.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")]
Database = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Its SQLite database (one-api.db), or a JSON export of its channels.", show_default=False
    ),
]
_DEFAULT_OUTPUT = Path("config.yaml")


@import_app.callback()
def _import_group() -> None:
    """Convert the configuration of another program."""


@import_app.command("litellm")
def import_litellm(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="LiteLLM's configuration, a YAML file.", show_default=False)
    ],
    output: Output = _DEFAULT_OUTPUT,
    force: Force = False,
) -> None:
    """Convert LiteLLM's models, keys, fallbacks and router settings, and report what is not carried over."""
    from sage.middleware.cli.litellm.conversion import Conversion
    from sage.middleware.cli.litellm.source import read_litellm

    _refuse_itself(file, output)
    _write(file, Conversion(read_litellm(file)), output, program="litellm", force=force)


@import_app.command("one-api")
def import_one_api(file: Database, output: Output = _DEFAULT_OUTPUT, force: Force = False) -> None:
    """Convert one-api's channels into providers and models, and report what is not carried over.

    Keys become variables; their values are written to a private file beside the configuration.
    """
    from sage.middleware.cli.one_api.channel_types import ONE_API

    _import_channels(file, output, ONE_API, "one-api", force=force)


@import_app.command("new-api")
def import_new_api(file: Database, output: Output = _DEFAULT_OUTPUT, force: Force = False) -> None:
    """Convert new-api's channels into providers and models, and report what is not carried over.

    Keys become variables; their values are written to a private file beside the configuration.
    """
    from sage.middleware.cli.one_api.channel_types import NEW_API

    _import_channels(file, output, NEW_API, "new-api", force=force)


def _import_channels(file: Path, output: Path, types: Mapping[int, ChannelType], program: str, *, force: bool) -> None:
    from sage.middleware.cli.one_api.source import read_one_api
    from sage.middleware.cli.one_api.translation import ChannelTranslation

    _refuse_itself(file, output)
    translation = ChannelTranslation(read_one_api(file), types)
    to_stdout = str(output) == "-"
    values = output.with_name(f"{output.name}.env")
    if translation.secrets and not to_stdout:
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in translation.secrets.items()]
        if not write_private(values, "".join(lines).encode(), replace=force):
            raise ConfigError(f"{values} exists; name another output, or replace it with --force")
    _write(file, translation.convert(), output, program=program, force=force)
    if translation.secrets and not to_stdout:
        message = _("the values of {count} variables are in {file}, which is private: set -a; . {file}; set +a")
        typer.echo(message.format(count=len(translation.secrets), file=shlex.quote(str(values))))


def _refuse_itself(file: Path, output: Path) -> None:
    if file.exists() and output.exists() and output.samefile(file):
        raise ConfigError(f"{output} is the file to convert; name another one with --output")


def _write(file: Path, conversion: Conversion, output: Path, *, program: str, force: bool) -> None:
    text = _document(file, conversion.result, conversion.report, program)
    _verify(file, text, conversion.report.variables)
    if str(output) == "-":
        typer.echo(text, nl=False)
    else:
        write_config(output, text, force=force, mode=0o600 if conversion.report.has_secrets else 0o666)
        providers, models = len(conversion.result["llm"]["providers"]), len(conversion.models)
        typer.echo(
            _("{file} written: {models} models, {providers} providers").format(
                file=output, models=models, providers=providers
            )
        )
    _tell(conversion.report, output, to_stderr=str(output) == "-")


def _document(source: Path, result: dict[str, Any], report: ConversionReport, program: str) -> str:
    """The YAML, under a comment that says what is not in it."""
    comment = [f"Made by 'sage import {program}' from {plain(source.name)}. 'sage config check' checks it."]
    if report.left_out:
        comment += ["Not carried over:", *(f"  {plain(line)}" for line in report.left_out)]
    head = "".join(f"# {line}\n" for line in comment)
    return head + yaml.safe_dump(result, sort_keys=False, allow_unicode=True, width=120)


def _verify(source: Path, text: str, variables: Iterable[str]) -> None:
    """Raises :class:`ConfigError` if the result would not be read, so that none is written."""
    environ = dict.fromkeys(variables, "http://localhost")
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch, "draft.yaml")
        draft.write_text(text, encoding="utf-8")
        try:
            load_settings(draft, environ)
        except ConfigError as exc:
            reason = exc.message.replace(f"{draft}: ", "")
            raise ConfigError(f"{source} cannot be converted: {reason}") from None


def _tell(report: ConversionReport, output: Path, *, to_stderr: bool) -> None:
    for line in report.left_out:
        typer.echo(_("not carried over: {text}").format(text=translated(plain(line))), err=to_stderr)
    if report.has_secrets:
        typer.echo(_("it holds keys in plain text, as the source does: keep it private"), err=to_stderr)
    missing = sorted(name for name in report.variables if not os.environ.get(name))
    if missing:
        names = ", ".join(missing)
        typer.echo(_("to be set where 'sage serve' runs (not set here): {names}").format(names=names), err=to_stderr)
    if not to_stderr:
        typer.echo(_("next: sage config check --config {file}").format(file=output))
