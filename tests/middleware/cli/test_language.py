"""The command line speaks the user's language: help pages, its own messages, and errors of the rooms below."""

from __future__ import annotations

from pathlib import Path

import cli_messages
import pytest
from sage_process import environment, sage

from sage.middleware.cli.language import templates
from sage.middleware.cli.language.catalogue import DIRECTORY, catalogue, language, read_po

PO = """
#: here
msgid ""
msgstr ""
"Language: zh\\n"

msgid "user '{name}' is \\"new\\""
msgstr ""
"用户 {name}"
"是新的"

#, fuzzy
msgid "not reviewed"
msgstr "未审"
"""


def test_a_catalogue_is_read_as_gettext_reads_it() -> None:
    assert list(read_po(PO.splitlines())) == [
        ("", "Language: zh\n"),
        ("user '{name}' is \"new\"", "用户 {name}是新的"),
        ("not reviewed", ""),
    ]


@pytest.mark.parametrize(
    ("variables", "speaks_chinese"),
    [
        ({}, False),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_TW.UTF-8"}, True),
        ({"LANG": "en_US.UTF-8"}, False),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "C", "LC_MESSAGES": "zh_CN.GB18030"}, True),
        ({"LANG": "zh_CN.UTF-8", "SAGE_LANG": "en"}, False),
        ({"LANG": "C.UTF-8", "SAGE_LANG": "zh"}, True),
        ({"SAGE_LANG": "zh-Hans"}, True),
        ({"SAGE_LANG": "../zh"}, False),
        ({"SAGE_LANG": "xx", "LANG": "zh_CN.UTF-8"}, False),
    ],
)
def test_the_language_is_the_variables_or_the_locales(variables: dict[str, str], speaks_chinese: bool) -> None:
    assert (catalogue(language(variables)) is not None) is speaks_chinese


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("there is no user 'a.b'; known: root", "没有用户 'a.b'；known: root"),
        ("there is no user 'documents'; the rest", "没有用户 'documents'；the rest"),
        ("config.yaml: cannot listen on a:1: Permission denied", "config.yaml：无法在 a:1 监听：没有权限"),
        ("port 80 on ::1 is taken; end its program or choose another port",
         "::1 的端口 80 已被占用；请结束占用它的程序，或换一个端口"),
        ("model 'a': provider 'b' cannot serve: it is not configured", "模型 'a'：提供方 'b' 无法服务：没有配置"),
        ("c.yaml: api: unknown key 'hots'; did you mean 'host'?", "c.yaml：api：未知的键 'hots'；是否想写 'host'？"),
        ("environment variable SAGE_API__PORTS: unknown key 'x'; did you mean 'y'?",
         "环境变量 SAGE_API__PORTS：未知的键 'x'；是否想写 'y'？"),
        ("a.yaml: x\nb.yaml: is no YAML", "a.yaml: x\nb.yaml：不是 YAML"),
        ("two words", "two words"),
        ("nothing of ours", "nothing of ours"),
    ],
)  # fmt: skip
def test_an_error_is_translated_by_its_template(monkeypatch: pytest.MonkeyPatch, text: str, shown: str) -> None:
    monkeypatch.setenv("SAGE_LANG", "zh")
    assert templates.translated(text) == shown
    monkeypatch.setenv("SAGE_LANG", "en")
    assert templates.translated(text) == text


def test_a_translation_has_the_values_of_its_message() -> None:
    for file in DIRECTORY.glob("*.po"):
        for message, translation in cli_messages.translations(file).items():
            if message and translation:
                names = [{name for _, name in templates.parts_of(text) or ()} for text in (message, translation)]
                assert names[0] - {None} == names[1] - {None}, f"{file.name}: {message}"


@pytest.mark.slow
def test_catalogues_have_every_message_and_no_other() -> None:
    found = cli_messages.messages()
    for file in DIRECTORY.glob("*.po"):
        entries = cli_messages.translations(file)
        assert set(entries) - {""} == set(found), "say: python tests/cli_messages.py --write"


@pytest.mark.slow
def test_every_message_is_translated() -> None:
    for file in DIRECTORY.glob("*.po"):
        assert [message for message, text in cli_messages.translations(file).items() if not text] == []


@pytest.mark.slow
def test_the_command_speaks_chinese(tmp_path: Path) -> None:
    env = environment(tmp_path, SAGE_LANG="zh", COLUMNS="100", SAGE_URL="http://127.0.0.1:9")
    page = sage(["user", "list", "--help"], env, cwd=tmp_path).stdout
    assert "用法：sage user list" in page
    assert "列出用户。" in page
    assert "显示本帮助并退出。" in page
    narrow = sage(["ingest", "--help"], {**env, "COLUMNS": "60"}, cwd=tmp_path).stdout
    assert "…" not in narrow, "a Chinese sentence goes on in the next line"
    wrong = sage(["user", "list", "--what"], env, cwd=tmp_path)
    assert (wrong.returncode, "没有这个选项：--what" in wrong.stderr) == (2, True)
    refused = sage(["models", "list"], env, cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("sage: http://127.0.0.1:9 没有网关应答")
    english = sage(["models", "list"], {**env, "SAGE_LANG": "en"}, cwd=tmp_path)
    assert english.stderr.startswith("sage: no gateway answers at http://127.0.0.1:9")


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["80", "100"])
def test_no_chinese_help_is_cut_off(tmp_path: Path, columns: str) -> None:
    env = environment(tmp_path, SAGE_LANG="zh", COLUMNS=columns)
    for command in (["models", "add"], ["ingest"], ["collections", "create"]):
        page = sage([*command, "--help"], env, cwd=tmp_path).stdout
        assert "…" not in page
        first = {line.strip("│╭╰ ")[:1] for line in page.splitlines()}
        assert not first & set("，；：）"), "a line begins with punctuation"
