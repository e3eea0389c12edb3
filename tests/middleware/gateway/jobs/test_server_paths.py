"""Files of the gateway's machine for jobs: what lies below a root is read, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.errors import InvalidRequest, NotFound
from sage.middleware.gateway.jobs.sources import ServerPaths, open_source
from sage.middleware.settings.queue import IngestSources


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("a.md", "sub/b.txt", "sub/.hidden", "sub/deep/c.html", ".git/config", "data.bak"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("secret")
    (root / "leak.txt").symlink_to(secret / "key.txt")
    (root / "leaking").symlink_to(secret)
    (root / "sub" / "inner.md").symlink_to(root / "a.md")
    os.mkfifo(root / "pipe")
    return root


def settings(*roots: Path, **more: Any) -> IngestSources:
    return IngestSources(roots=roots, **more)


def sources(settings: IngestSources, path: Path | str, **more: Any) -> list[str]:
    return [item["source"] for item in ServerPaths(settings, **more).find(str(path))]


def test_a_directory_gives_its_files_and_neither_links_nor_hidden_ones(root: Path) -> None:
    items = list(ServerPaths(settings(root), exclude=["*.bak"]).find(str(root)))
    assert [item["source"] for item in items] == [f"{root}/{name}" for name in ("a.md", "sub/b.txt", "sub/deep/c.html")]
    assert [item["path"] for item in items] == ["a.md", "sub/b.txt", "sub/deep/c.html"]
    with open_source(items[1], settings(root)) as file:
        assert file.read() == b"content of sub/b.txt"
    assert sources(settings(root), root / "sub", include=["*.html"]) == [f"{root}/sub/deep/c.html"]


def test_a_path_is_taken_for_what_its_links_lead_to(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    assert sources(settings(root), link / "sub" / "b.txt") == [f"{root}/sub/b.txt"]
    assert sources(settings(root), root / "sub" / "inner.md") == [f"{root}/a.md"]
    assert sources(settings(link), root / "a.md") == [f"{link}/a.md"]
    assert sources(settings(tmp_path, root), root / "a.md") == [f"{root}/a.md"]
    assert sources(settings(root), root / "sub" / ".." / "a.md") == [f"{root}/a.md"]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "{root}/../secret/key.txt",
            "{root}/leak.txt",
            "{root}/leaking",
            "{root}/leaking/key.txt",
            "/etc/passwd",
            "/",
        ),
        *("{root}-other", "{root}/../root-none/x", "/proc/self/root/etc/passwd", "{root}/leaking/none.txt"),
    ],
)
def test_what_lies_outside_is_refused_and_not_told_from_what_is_not_there(root: Path, path: str) -> None:
    named = path.format(root=root)
    with pytest.raises(InvalidRequest, match=r"is not below a directory of queue\.ingest\.roots") as refused:
        sources(settings(root), named)
    assert str(refused.value).replace(repr(named), "").count("/") == 0


@pytest.mark.parametrize("path", ["relative.md", "", "~/x", "/a\x00b", "/" + "a" * 5000])
def test_what_is_no_absolute_path_is_refused(root: Path, path: str) -> None:
    with pytest.raises(InvalidRequest, match="not an absolute path"):
        sources(settings(root), path)


def test_without_roots_it_says_what_to_set(root: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"queue\.ingest\.roots") as refused:
        sources(settings(), root)
    assert refused.value.code == "no_ingest_roots"


def test_missing_and_special_files_are_refused(root: Path) -> None:
    for name in ("none.md", "a.md/x"):
        with pytest.raises(InvalidRequest, match=r"no such file|cannot be read"):
            sources(settings(root), root / name)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        sources(settings(root), root / "pipe")


def test_counts_and_bytes_are_bounded(root: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"queue\.ingest\.max_files"):
        sources(settings(root, max_files=2), root)
    with pytest.raises(InvalidRequest, match=r"queue\.ingest\.max_bytes"):
        sources(settings(root, max_bytes=20), root)
    (item,) = ServerPaths(settings(root, max_file=5)).find(str(root / "a.md"))
    assert "queue.ingest.max_file" in item["obstacle"]


def test_a_name_that_is_not_utf8_is_an_item_with_its_cause(root: Path) -> None:
    Path(os.fsdecode(bytes(root / "sub") + b"/\xff.md")).write_text("x")
    items = list(ServerPaths(settings(root)).find(str(root / "sub")))
    assert [item["source"] for item in items if "not UTF-8" in item.get("obstacle", "")] == [f"{root}/sub/\\xff.md"]


def test_what_vanishes_while_a_directory_is_read_is_left_out(root: Path) -> None:
    items = ServerPaths(settings(root)).find(str(root))
    first = next(items)
    (root / "data.bak").unlink()
    shutil.rmtree(root / "sub")
    assert [first["source"], *(item["source"] for item in items)] == [f"{root}/a.md"]


def _file_to_link(root: Path) -> None:
    (root / "sub" / "b.txt").unlink()
    (root / "sub" / "b.txt").symlink_to(root.parent / "secret" / "key.txt")


def _directory_to_link(root: Path) -> None:
    (root / "sub").rename(root / "moved")
    (root / "sub").symlink_to(root.parent / "secret")
    (root.parent / "secret" / "b.txt").write_text("secret")


def _file_to_pipe(root: Path) -> None:
    (root / "sub" / "b.txt").unlink()
    os.mkfifo(root / "sub" / "b.txt")


@pytest.mark.parametrize("change", [_file_to_link, _directory_to_link, _file_to_pipe])
def test_a_file_that_becomes_a_link_after_it_was_found_is_not_read(root: Path, change: Callable[[Path], None]) -> None:
    (item,) = ServerPaths(settings(root)).find(str(root / "sub" / "b.txt"))
    change(root)
    with pytest.raises(NotFound) as refused:
        open_source(item, settings(root))
    assert refused.value.code == "source_gone"
    assert str(root) not in str(refused.value)


def test_a_root_that_is_no_longer_listed_is_not_read(root: Path, tmp_path: Path) -> None:
    (item,) = ServerPaths(settings(root)).find(str(root / "a.md"))
    with pytest.raises(NotFound):
        open_source(item, settings(tmp_path / "secret"))
