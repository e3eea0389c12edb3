"""``sage config …``: checks a configuration, and writes one to begin with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sage.errors import ConfigError
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated
from sage.middleware.settings.reading import find_config, load_settings
from sage.middleware.settings.template import config_template
from sage.private_files import write_private

config_app = typer.Typer(help="Write and check the configuration.", no_args_is_help=True)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration file. Without it, the one that SAGE_CONFIG names, else ./config.yaml if there is one.",
    ),
]


@config_app.command("check")
def config_check(
    config: ConfigFile = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all settings that apply, as JSON.")] = False,
) -> None:
    """Read the configuration as the gateway would, and report what is wrong with it.

    It fails if a model, a file or an extra that the configuration names is not there. Keys that are not set are
    warnings.
    """
    path = find_config(config, os.environ)
    settings = load_settings(path, os.environ)
    # Imported here: `sage token` need not load the server.
    from sage.middleware.app.config_check import check
    from sage.middleware.app.main import make_gateway

    registry = make_gateway(settings).registry
    findings = check(settings, registry)
    bad = [finding for finding in findings if finding.is_fault or strict]
    file = str(path) if path is not None else _("built-in defaults")
    if as_json:
        typer.echo(settings.model_dump_json(indent=2))
    else:
        if not bad:
            typer.echo(_("{file}: the configuration is good").format(file=file))
        providers = ", ".join(sorted(registry.providers)) or _("none")
        models = ", ".join(model.name for model in registry.models() if model.deployments) or _("none")
        typer.echo(_("providers: {names}").format(names=providers))
        typer.echo(_("models: {names}").format(names=models))
    for finding in findings:
        line = _("fault: {text}") if finding.is_fault else _("warning: {text}")
        typer.echo(line.format(text=translated(finding.text)), err=as_json)
    if bad:
        raise ConfigError(f"{file}: the check has failed; it found {len(bad)}")


@config_app.command("init")
def config_init(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to write; '-' is standard output.", show_default=True)
    ] = Path("config.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a configuration file that states every default and explains each key in a comment."""
    text = config_template()
    if str(file) == "-":
        typer.echo(text, nl=False)
        return
    write_config(file, text, force=force, mode=0o666)
    typer.echo(_("{file} written; edit it, and try it with 'sage config check'").format(file=file))


def write_config(file: Path, text: str, *, force: bool, mode: int = 0o600) -> None:
    """Writes the file as a whole or not at all. Raises :class:`ConfigError` for one that exists, unless ``force``."""
    if not write_private(file, text.encode(), replace=force, mode=mode):
        raise ConfigError(f"{file} exists already; name another file, or replace it with --force")
