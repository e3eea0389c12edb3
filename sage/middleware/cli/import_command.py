"""``sage import …``: makes our configuration of another program's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
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

if TYPE_CHECKING:
    from sage.middleware.cli.litellm.report import ConversionReport

import_app = typer.Typer(help="Convert the configuration of another program.", no_args_is_help=True)


@import_app.callback()
def _import_group() -> None:
    """Convert the configuration of another program."""


@import_app.command("litellm")
def import_litellm(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="LiteLLM's configuration, a YAML file.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The configuration to write; '-' is standard output.")
    ] = Path("config.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
) -> None:
    """Convert LiteLLM's models, keys, fallbacks and router settings, and report what is not carried over."""
    from sage.middleware.cli.litellm.conversion import Conversion
    from sage.middleware.cli.litellm.source import read_litellm

    if file.exists() and output.exists() and output.samefile(file):
        raise ConfigError(f"{output} is the file to convert; name another one with --output")
    conversion = Conversion(read_litellm(file))
    text = _document(file, conversion.result, conversion.report)
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


def _document(source: Path, result: dict[str, Any], report: ConversionReport) -> str:
    """The YAML, under a comment that says what is not in it."""
    comment = [f"Made by 'sage import litellm' from {plain(source.name)}. 'sage config check' checks it."]
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
