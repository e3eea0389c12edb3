"""The console's files: complete texts, unchanged libraries, nothing from elsewhere, small, and served safely."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import get_args

import pytest
import requests
from project import ROOT
from running_gateway import Running

from sage.kernels.runtime.services.host import LifeState
from sage.middleware.auth.principal import ROLES, Scope
from sage.middleware.engines.managed_model import ModelLifeState
from sage.middleware.gateway.jobs.rights import WORK
from sage.middleware.queue.states import PRIORITIES, STATES
from sage.middleware.routers.openai.uploads import UPLOAD_PURPOSES
from sage.middleware.settings.effective.rows import SourceKind

CONSOLE = ROOT / "sage/middleware/console"
OWN = [path for path in CONSOLE.rglob("*.js") if "vendor" not in path.parts]
LANGUAGES = {name: json.loads((CONSOLE / f"locales/{name}.json").read_text(encoding="utf-8")) for name in ("en", "zh")}
KEY = re.compile(r'"([a-z]+\.[a-z_0-9:]*)"')
MADE = re.compile(r"\bt\(`([a-z]+)\.\$\{")
"""The beginnings of keys that are put together while the console runs."""


def keys_in_code() -> set[str]:
    return {key for path in OWN for key in KEY.findall(path.read_text(encoding="utf-8"))}


def test_every_text_is_there_in_both_languages() -> None:
    assert LANGUAGES["en"].keys() == LANGUAGES["zh"].keys()
    missing = {key for key in keys_in_code() if key.split(".")[0] in PREFIXES} - LANGUAGES["en"].keys()
    assert missing == set()


def test_every_text_is_used() -> None:
    made = {prefix for path in OWN for prefix in MADE.findall(path.read_text(encoding="utf-8"))}
    unused = [key for key in LANGUAGES["en"].keys() - keys_in_code() if key.split(".")[0] not in made]
    assert unused == []


def test_texts_have_the_same_values_to_fill_in() -> None:
    for key, english in LANGUAGES["en"].items():
        text = english if isinstance(english, str) else english["other"]
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", LANGUAGES["zh"][key])), key


@pytest.mark.parametrize(
    ("prefix", "values"),
    [
        ("purpose", {*UPLOAD_PURPOSES, "results", "batch_output"}),
        ("scope", set(Scope)),
        ("role", set(ROLES)),
        ("job", set(WORK)),
        ("priority", set(PRIORITIES)),
        ("state", {*STATES, *ModelLifeState, *LifeState}),
        ("origin", set(get_args(SourceKind))),
    ],
)
def test_what_the_gateway_names_has_a_text(prefix: str, values: set[str]) -> None:
    assert {value for value in values if f"{prefix}.{value}" not in LANGUAGES["en"]} == set()


PREFIXES = {key.split(".")[0] for key in LANGUAGES["en"]}


def test_libraries_are_their_packages_own_files() -> None:
    rows = json.loads((CONSOLE / "vendor/vendor.json").read_text())
    files = {path.name for path in (CONSOLE / "vendor").iterdir() if path.suffix in (".js", ".css")}
    assert rows.keys() == files
    for name, row in rows.items():
        assert hashlib.sha256((CONSOLE / "vendor" / name).read_bytes()).hexdigest() == row["sha256"], name
        assert len((CONSOLE / "vendor" / row["text"]).read_text(encoding="utf-8")) > 500, name


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    page = (CONSOLE / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:", page) == []
    assert re.findall(r'(?:src|href)="(?!/console/)', page) == []
    for path in OWN:
        text = path.read_text(encoding="utf-8")
        imported = re.findall(r"""^(?:import|export) .* from ["']([^"']+)["']$""", text, re.MULTILINE)
        imported += re.findall(r"\bimport\(([^)]*)\)", text)
        texts = {"openai", "node:fs"} if path.name in ("client_texts.js", "request_code.js") else set()
        assert {name for name in imported if not name.startswith((".", '"./'))} <= texts, path
        assert "innerHTML" not in text or path.name == "markdown.js", path


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Running:
    return module_gateway()


def test_a_browser_is_led_to_it(running: Running) -> None:
    led = requests.get(running.url, headers={"accept": "text/html"}, allow_redirects=False, timeout=30)
    assert (led.status_code, led.headers["location"]) == (307, "/console")
    assert requests.get(running.url, timeout=30).text == "SAGE Middleware is running\n"


@pytest.mark.parametrize("path", ["", "/", "/main.js", "/style.css", "/locales/zh.json", "/vendor/purify.js"])
def test_every_file_keeps_scripts_of_others_out(running: Running, path: str) -> None:
    answer = requests.get(f"{running.url}/console{path}", timeout=30)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    known = {"if-none-match": answer.headers["etag"]}
    assert requests.get(f"{running.url}/console{path}", headers=known, timeout=30).status_code in (200, 304)


def test_it_is_small(running: Running) -> None:
    """All files together, as they go over the wire; each is what it was, once it is unpacked."""
    transferred, packed = 0, 0
    served = [path for path in CONSOLE.rglob("*") if path.suffix in (".js", ".css", ".html", ".svg", ".json")]
    for path in served:
        url = f"{running.url}/console/{path.relative_to(CONSOLE)}"
        answer = requests.get(url, headers={"accept-encoding": "gzip"}, timeout=30)
        assert answer.content == path.read_bytes()
        assert answer.headers["vary"] == "accept-encoding"
        transferred += int(answer.headers["content-length"])
        packed += answer.headers.get("content-encoding") == "gzip"
    assert packed == len(served) > 50
    assert transferred < 400_000


def test_files_are_plain_for_who_unpacks_nothing(running: Running) -> None:
    plain = requests.get(f"{running.url}/console/main.js", headers={"accept-encoding": "identity"}, timeout=30)
    assert "content-encoding" not in plain.headers
    assert plain.content == (CONSOLE / "main.js").read_bytes()
    known = {"if-none-match": plain.headers["etag"], "accept-encoding": "gzip"}
    assert requests.get(f"{running.url}/console/main.js", headers=known, timeout=30).status_code == 304


@pytest.mark.parametrize("path", ["/../settings/config.yaml", "/%2e%2e/errors.py", "/core", "/nothing.js"])
def test_no_other_file_is_served(running: Running, path: str) -> None:
    assert requests.get(f"{running.url}/console{path}", timeout=30).status_code == 404


def test_it_can_be_switched_off(gateway: Callable[..., Running]) -> None:
    url = gateway(console=False).url
    assert requests.get(f"{url}/console", timeout=30).status_code == 404
    led = requests.get(url, headers={"accept": "text/html"}, allow_redirects=False, timeout=30)
    assert led.headers["location"] == "/docs"


def test_options_tell_how_to_log_in(gateway: Callable[..., Running], running: Running) -> None:
    with_accounts = requests.get(f"{running.url}/auth/options", timeout=30).json()
    assert with_accounts == {"accounts": True, "setup": False, "single_sign_on": False, "session": False}
    cookies = {"sage-session": "A" * 40}
    assert requests.get(f"{running.url}/auth/options", cookies=cookies, timeout=30).json()["session"] is True
    open_to_all = gateway(auth={"enabled": False})
    assert requests.get(f"{open_to_all.url}/auth/options", timeout=30).json()["accounts"] is False
