"""docs/providers.md says what the tests prove, and no mark can say what there is no word for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import provider_features as features
import pytest

from sage.middleware.settings.kinds import PRESETS

SCRIPT = Path(features.__file__)


def proves(*args, **kwargs) -> pytest.Mark:
    return pytest.mark.proves(*args, **kwargs).mark


@pytest.mark.slow
def test_the_page_says_what_the_tests_prove(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    if {item.path for item in items}.issuperset(features.marked()):  # as in `make check`, which has collected them
        proven = features.proven_by(items)
        assert proven.contradictions() == []
        for page, text in features.pages(proven).items():
            assert page.read_text("utf-8") == text, f"run: {features.COMMAND}"
    else:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=env, cwd=features.ROOT)
        assert done.returncode == 0, done.stderr
    assert "| chat | " in features.PAGE.read_text()
    for preset in PRESETS:
        assert f"| `{preset.name}` | " in features.PAGE.read_text()
        assert f"| `{preset.name}` | " in features.CONFIGURATION.read_text()


def test_a_table_stands_between_its_marks() -> None:
    page = f"a\n{features.BEGIN}\nold\n{features.END}\nb\n{features.BEGIN}\n{features.END}\nc"
    expected = f"a\n{features.BEGIN}\n1\n{features.END}\nb\n{features.BEGIN}\n2\n{features.END}\nc"
    assert features.replaced(page, "1", "2") == expected
    with pytest.raises(ValueError, match="lacks the marks"):
        features.replaced(page, "1", "2", "3")


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        (proves("opnai", "chat"), "no vendor 'opnai'"),
        (proves("openai", "chatting"), "no feature 'chatting'"),
        (proves("openai"), "at least one feature"),
        (proves("openai", "chat", refuses=True), "not refuses"),
    ],
)
def test_a_mark_in_unknown_words_is_refused(mark: pytest.Mark, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        features.check(mark)


@pytest.mark.slow
def test_an_unknown_word_ends_the_collection(tmp_path: Path) -> None:
    """As pytest itself does it, with the conftest of this directory."""
    (tmp_path / "conftest.py").write_text((SCRIPT.parent / "conftest.py").read_text())
    paths = " ".join(str(features.ROOT / path) for path in (".", "tests", "tests/running", "tests/scripted"))
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {paths}\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.proves('openai', 'magic'))])\n"
        "def test_it(x): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_it.py::test_it[1]: proves: there is no feature 'magic'" in done.stderr


def test_what_a_sign_says() -> None:
    proven = features.Proven()
    proven.add(proves("ollama", "chat", "tools"))
    proven.add(proves("ollama", "n", refused=True))
    proven.add(proves("vllm", "chat"))
    proven.add(proves("vllm", "chat", "LoRA"), apart=True)
    rows = {
        cells[0]: dict(zip(features.VENDORS, cells[1:], strict=True))
        for line in proven.table().splitlines()
        if line.startswith("|")
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
    }
    assert rows["chat"] == {
        "openai": "",
        "vllm": "✓●",
        "ollama": "✓",
        "zhipu": "",
        "cohere": "",
        "anthropic": "",
        "gemini": "",
        "local": "",
    }
    assert (rows["n"]["ollama"], rows["LoRA"]["vllm"], rows["stop"]["ollama"]) == ("✗", "●", "")
    assert set(rows) == {"", "---", *features.FEATURES}


def test_what_works_cannot_be_refused() -> None:
    proven = features.Proven()
    proven.add(proves("cohere", "n"))
    proven.add(proves("cohere", "n", refused=True))
    assert proven.contradictions() == ["cohere: 'n' is proven to work and to be refused"]


@pytest.mark.slow
def test_only_tests_that_run_count(tmp_path: Path) -> None:
    test = tmp_path / "test_some.py"
    test.write_text(
        "import pytest\n"
        "@pytest.mark.proves('openai', 'chat')\n"
        "def test_runs(): pass\n"
        "@pytest.mark.skipif(True, reason='x')\n"
        "@pytest.mark.proves('openai', 'tools')\n"
        "def test_skipped(): pass\n"
        "@pytest.mark.parametrize('x', [\n"
        "    pytest.param(1, marks=pytest.mark.proves('openai', 'seed')),\n"
        "    pytest.param(2, marks=[pytest.mark.skip, pytest.mark.proves('openai', 'stop')]),\n"
        "    pytest.param(3, marks=[pytest.mark.xfail, pytest.mark.proves('openai', 'n')])])\n"
        "def test_each(x): pass\n"
    )
    script = f"import provider_features as f, pathlib; print(sorted(f.collect([pathlib.Path({str(test)!r})]).works))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=SCRIPT.parent)
    assert done.stdout.splitlines()[-1] == "[('openai', 'chat'), ('openai', 'seed')]", done.stderr
