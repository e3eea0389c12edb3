"""The setting ``database``: what is refused, and that no message shows a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage.errors import ConfigError
from sage.middleware.settings.reading import CLIENT_SECTIONS, load_settings
from sage.middleware.settings.settings import Settings


def read(tmp_path: Path, url: str, environ: dict[str, str] | None = None) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(f"database: '{url}'\n", "utf-8")
    return load_settings(file, environ or {})


def test_no_database_is_named_by_default() -> None:
    assert Settings().database is None


def test_a_url_is_shown_without_its_password_and_parameters(tmp_path: Path) -> None:
    settings = read(tmp_path, "postgresql://sage:${PW}@db.example:5433/gateway?sslpassword=inner", {"PW": "s3cret"})
    assert settings.database is not None
    assert settings.database.conninfo == "postgresql://sage:s3cret@db.example:5433/gateway?sslpassword=inner"
    assert settings.database.shown == "postgresql://sage@db.example:5433/gateway"
    for text in (repr(settings), str(settings.database), settings.model_dump_json()):
        assert "s3cret" not in text
        assert "inner" not in text


def test_the_environment_names_it_too() -> None:
    settings = load_settings(None, {"SAGE_DATABASE": "postgresql://sage:s3cret@db/sage"})
    assert settings.database is not None
    assert settings.database.shown == "postgresql://sage@db/sage"


def test_commands_beside_the_gateway_read_it_too(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "database: postgresql://sage@db/sage\nllm: {providers: {openai: {api_key: '${NOT_SET}'}}}\n", "utf-8"
    )
    settings = load_settings(file, {}, sections=CLIENT_SECTIONS)
    assert settings.database is not None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "mysql://sage:s3cret@db/sage",
            "does not begin with postgresql://, and no other database is known",
        ),
        ("sqlite:////data/s3cret.db", "for SQLite leave it out: its files are in data_dir"),
        ("/data/s3cret.db", "for SQLite leave it out: its files are in data_dir"),
        ("postgresql+psycopg2://sage:s3cret@db/sage", r"write postgresql://…, the driver is psycopg"),
        ("postgresql://sage:s3cret@db", "is not of the form postgresql://user:password@host:5432/name"),
        ("postgresql://sage:s3cret@db/", "is not of the form"),
        ("postgresql://sage:s3 cret@db/sage", "is not of the form"),
        ("postgresql://sage:s3[cret@db/sage", "is no URL; write signs of the password"),
    ],
)
def test_other_urls_are_refused_with_advice_and_not_shown(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, url)
    assert "database" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "s3 cret" not in str(caught.value)
