"""Which files of the arguments are taken, as what, and what they are called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sage.errors import InvalidRequest
from sage.middleware.ingest.document import FileKind, Unreadable
from sage.middleware.ingest.files import Walk, digest_of, kind_of, kind_of_stdin


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    for name, content in {
        "a.md": b"# A",
        "b.TXT": b"b",
        "code.py": b"x = 1",
        "page.htm": b"<p>",
        "paper": b"%PDF-1.4",
        "lines.jsonl": b"{}",
        "sub/deep/z.md": b"z",
        "sub/data.bin": bytes(range(256)),
        "wide.txt": "wide".encode("utf-16"),
        ".hidden": b"h",
        ".git/config": b"g",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "link.md").symlink_to(root / "a.md")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe")
    return root


def test_a_directory_gives_its_readable_files_and_counts_the_rest(tree: Path) -> None:
    walk = Walk()
    files = walk.find([tree])
    assert [(file.relative, file.kind) for file in files] == [
        ("a.md", FileKind.MARKDOWN),
        ("b.TXT", FileKind.TEXT),
        ("code.py", FileKind.CODE),
        ("lines.jsonl", FileKind.JSONL),
        ("page.htm", FileKind.HTML),
        ("paper", FileKind.PDF),
        ("wide.txt", FileKind.TEXT),
        ("sub/deep/z.md", FileKind.MARKDOWN),
    ]
    assert walk.skipped == {"hidden": 2, "link": 2, "binary": 1, "special": 1}
    assert walk.failed == []
    assert files[-1].source == f"{tree.resolve()}/sub/deep/z.md"


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        (["*.md"], [], ["a.md", "sub/deep/z.md"]),
        (["sub/*"], [], ["sub/deep/z.md"]),
        (["sub/"], [], ["sub/deep/z.md"]),
        (["*.md", "*.py"], ["deep"], ["a.md", "code.py"]),
        ([], ["*.*"], ["paper"]),
    ],
)
def test_globs(tree: Path, include: list[str], exclude: list[str], names: list[str]) -> None:
    assert [file.relative for file in Walk(include, exclude).find([tree])] == names


def test_a_name_of_ones_own_is_the_same_on_every_machine(tree: Path) -> None:
    (file,) = Walk(["z.md"], alias="handbook").find([tree])
    assert (file.source, file.relative) == ("handbook/sub/deep/z.md", "sub/deep/z.md")
    (file,) = Walk(alias="notes").find([tree / "a.md"])
    assert (file.source, file.relative) == ("notes", "a.md")


def test_a_file_is_taken_once_and_links_that_are_named_are_followed(tree: Path) -> None:
    files = Walk(["a.md"]).find([tree, tree / "a.md", tree / "link.md"])
    assert [file.relative for file in files] == ["a.md"]


def test_what_is_named_and_cannot_be_read_is_a_failure(tree: Path) -> None:
    walk = Walk()
    assert walk.find([tree / "sub/data.bin", tree / "pipe"]) == []
    assert walk.failed == [
        (str(tree / "sub/data.bin"), "is neither text nor a document of a known kind"),
        (str(tree / "pipe"), "is not a regular file; pipe it in: sage ingest COLLECTION -"),
    ]
    with pytest.raises(InvalidRequest, match=r"nope: there is no such file"):
        walk.find([tree / "nope"])


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(path)).write_text("x")
    (file,) = Walk().find([tmp_path])
    assert file.relative == "caf\\xe9.txt"
    assert file.path.read_text() == "x"
    with pytest.raises(Unreadable, match="not UTF-8"):
        file.check()


def test_a_name_that_is_no_unicode_above_a_name_of_ones_own(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    directory.mkdir()
    (directory / "a.txt").write_text("x")
    bad = Path(os.fsdecode(os.fsencode(directory) + b"/b\xe9.txt"))
    bad.write_text("y")
    for alias, arguments, exact in (
        (None, [directory], [False, False]),
        ("docs", [directory], [True, False]),
        ("note", [bad], [True]),
        (None, [bad], [False]),
    ):
        assert [file.obstacle is None for file in Walk(alias=alias).find(arguments)] == exact
    with pytest.raises(InvalidRequest, match=r"no\\xe9: there is no such file"):
        Walk().find([Path(os.fsdecode(os.fsencode(tmp_path) + b"/no\xe9"))])


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("x.md", b"\x00\x01", None),
        ("x.pdf", b"junk\x00", FileKind.PDF),
        ("x.bin", b"%PDF-1.7\n\xe2\x00", FileKind.PDF),
        ("x", b"", FileKind.TEXT),
        ("x.log", "中文".encode("gb18030"), FileKind.TEXT),
        ("x.exe", b"MZ\x90\x00\x03\x00\x00\x00\x04\x00", None),
        ("x.txt", b"\x1b[1mbold\x1b[0m text", FileKind.TEXT),
    ],
)
def test_kinds(name: str, head: bytes, kind: FileKind | None) -> None:
    assert kind_of(name, head) is kind


def test_what_comes_without_a_name() -> None:
    assert kind_of_stdin(b'\n {"text": 1}') is FileKind.JSONL
    assert kind_of_stdin(b"%PDF-1") is FileKind.PDF
    assert kind_of_stdin(b"<!DOCTYPE html>") is FileKind.HTML
    assert kind_of_stdin(b"words") is FileKind.TEXT


def test_the_digest_is_of_bytes_and_recipe(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    first = digest_of(path, "r")
    assert digest_of(path, "r") == first
    assert digest_of(path, "s") != first
    path.write_bytes(b"2")
    assert digest_of(path, "r") != first


def test_gitignore_files_are_honoured_as_git_reads_them(tmp_path: Path) -> None:
    """Checked against git itself."""
    repository = tmp_path / "repo"
    for name, content in {
        ".gitignore": "*.log\n!keep.log\n/build/\ntop.txt\n# comment\n!\n",
        "docs/.gitignore": "secret*\n!*.log\ndeep/**/x.md\n",
        "docs/a.md": "a",
        "docs/b.log": "b",
        "docs/secret.md": "s",
        "docs/top.txt": "t",
        "docs/deep/one/two/x.md": "x",
        "docs/deep/y.md": "y",
        "docs/build/c.md": "c",
        "build/d.md": "d",
        "e.log": "e",
        "keep.log": "k",
    }.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    listing = ["git", "-C", str(repository), "ls-files", "--others", "--exclude-standard"]
    known = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    visible = {name for name in known if not name.endswith(".gitignore")}
    walk = Walk()
    assert {file.relative for file in walk.find([repository])} == visible
    assert walk.skipped["ignored"] == 5
    below = {name.removeprefix("docs/") for name in visible if name.startswith("docs/")}
    assert {file.relative for file in Walk().find([repository / "docs"])} == below, "rules above it count"
    assert "secret.md" in {file.relative for file in Walk(ignore_rules=False).find([repository / "docs"])}
