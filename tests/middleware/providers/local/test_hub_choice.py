"""Which file of a hub's repository is meant, and what no name and no path may be."""

from __future__ import annotations

import pytest

from sage.errors import InvalidRequest, NotFound
from sage.middleware.hub.sources import RepoFile, is_safe, parse_source
from sage.middleware.providers.local.hub_choice import check_file_model, choose, default_name, quantisation

QWEN = ("qwen2.5-0.5b-instruct-fp16.gguf", "qwen2.5-0.5b-instruct-q2_k.gguf", "qwen2.5-0.5b-instruct-q4_0.gguf")
QWEN += ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "qwen2.5-0.5b-instruct-q5_k_m.gguf", "qwen2.5-0.5b-instruct-q8_0.gguf")


def chosen(source: str, *paths: str) -> tuple[tuple[str, ...], str]:
    """The files that are fetched, and the model's name."""
    wanted = parse_source(source)
    choice = choose(wanted, [RepoFile(path, 10) for path in paths])
    return tuple(file.path for file in choice.files), default_name(wanted, choice)


def test_the_preferred_quantisation_is_chosen_and_the_name_is_the_repositorys() -> None:
    source = "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF"
    assert chosen(source, "README.md", *QWEN) == ((QWEN[3],), "qwen2.5-0.5b-instruct")
    assert chosen("hf:a/Tiny_GGUF", "t.Q8_0.gguf", "t.Q6_K.gguf") == (("t.Q6_K.gguf",), "tiny")
    assert chosen("hf:a/b", "only.gguf") == (("only.gguf",), "b")


@pytest.mark.parametrize("wanted", ["Q8_0", "q8_0", "qwen2.5-0.5b-instruct-q8_0.gguf"])
def test_a_quantisation_or_a_file_can_be_asked_for(wanted: str) -> None:
    files, name = chosen(f"hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:{wanted}", *QWEN)
    assert (files, name) == ((QWEN[5],), "qwen2.5-0.5b-instruct-q8_0")


def test_a_file_in_a_directory_and_one_in_capitals() -> None:
    assert chosen("hf:a/b:BF16", "BF16/Big Model.GGUF", "Q4_K_M/x.gguf") == (("BF16/Big Model.GGUF",), "big-model")
    assert quantisation("UD-Q4_K_XL/x-00001-of-00002.gguf") == "UD-Q4_K_XL"
    assert quantisation("Qwen3-0.6B.gguf") is None


def test_a_split_model_is_all_of_its_parts() -> None:
    parts = tuple(f"q/m-q4_k_m-0000{n}-of-00003.gguf" for n in (1, 2, 3))
    assert chosen("hf:a/b", "m-q8_0.gguf", *reversed(parts)) == (parts, "b")
    assert chosen(f"hf:a/b:{parts[0]}", *parts)[1] == "m-q4_k_m"
    assert chosen("hf:a/b", "m-q8_0.gguf", *parts[:2])[0] == ("m-q8_0.gguf",), "a part is missing"


def test_projectors_and_matrices_are_no_models() -> None:
    assert chosen("hf:a/b", "mmproj-F16.gguf", "x.imatrix.gguf", "m-f16.gguf")[0] == ("m-f16.gguf",)
    with pytest.raises(NotFound, match="no GGUF file"):
        chosen("hf:a/b", "model.safetensors", "mmproj-F16.gguf")


def test_two_that_fit_are_asked_about_and_none_is_told() -> None:
    with pytest.raises(InvalidRequest, match=r"several files of hf:a/b fit; .*: one-q4_k_m\.gguf, two-q4_k_m\.gguf"):
        chosen("hf:a/b", "one-q4_k_m.gguf", "two-q4_k_m.gguf", "three-q8_0.gguf")
    with pytest.raises(NotFound, match=r"has no 'Q3_K_S'; it has: m-q4_k_m\.gguf"):
        chosen("hf:a/b:Q3_K_S", "m-q4_k_m.gguf")


@pytest.mark.parametrize(
    "text",
    [
        *("hf:", "hf:a", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b:../x.gguf", "hf:a/b:/etc/x.gguf", "hf:a/b:x\n.gguf"),
        *("hf:a/b?c", "hf:a b/c", "hf:-a/b", "hf:a..b/c", r"hf:a/b:x\y.gguf", "xx:a/b", "hf:a/b:" + "x" * 600),
    ],
)
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_source(text)


def test_a_hub_cannot_name_a_path_outside() -> None:
    paths = ("../../evil-q4_k_m.gguf", "/etc/q4_k_m.gguf", "a//q4_k_m.gguf", "a/./q4_k_m.gguf", "a\\..\\q4_k_m.gguf")
    assert not any(map(is_safe, paths))
    assert chosen("hf:a/b", *paths, "good-q8_0.gguf")[0] == ("good-q8_0.gguf",)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".a", "a b", "a:b", "x" * 200, "a\n"])
def test_what_no_model_of_a_file_is_called(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_file_model(name)
    check_file_model("通义-1.5b_q4")


def test_a_revision_and_a_digest_are_parts_of_a_source() -> None:
    for revision in ("main", "refs/pr/3", "0123456789abcdef0123456789abcdef01234567", "v1.0+cpu"):
        source = parse_source(f"hf:a/b@{revision}:onnx/model.onnx")
        assert (source.repo, source.revision, source.file) == ("a/b", revision, "onnx/model.onnx")
        assert parse_source(str(source)) == source
    pinned = parse_source("hf:a/b@v1#sha256-0123456789abcdef0123456789abcdef")
    assert (pinned.revision, pinned.file, pinned.digest) == ("v1", None, "sha256-0123456789abcdef0123456789abcdef")
    assert parse_source(str(pinned)) == pinned
    assert parse_source("hf:a/b:Q8_0").revision is None


@pytest.mark.parametrize("source", ["hf:a/b@", "hf:a/b@../x", "hf:a/b@a b", "hf:a/b#sha256-", "hf:a/b#sha256-zz"])
def test_what_is_no_revision_or_digest_is_refused(source: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_source(source)
