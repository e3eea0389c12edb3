"""A form written anew for an upstream: whatever its pieces and its contents, the same fields and files arrive."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_upstream import Sent, form_parser
from python_multipart.multipart import parse_options_header

from sage.errors import InvalidRequest
from sage.middleware.routers.http.forms.transcoder import FormTranscoder

BOUNDARY = b"----WebKitFormBoundaryabc"
LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc",), exclude_characters=r'"\;%')
NAMES = st.text(LETTERS, min_size=1, max_size=9)
CONTENTS = st.one_of(
    st.binary(max_size=300), st.just(b"\r\n--" + BOUNDARY[:-1] + b"\r\n"), st.just(b"\r\n--" * 40 + b"\n--" + BOUNDARY)
)


def form_of(files: list[tuple[str, bytes]], *, model_last: bool) -> bytes:
    model = b'Content-Disposition: form-data; name="model"\r\n\r\npublic\r\n'
    parts = []
    for name, data in files:
        head = f'Content-Disposition: form-data; name="image[]"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    ordered = [*parts, model] if model_last else [model, *parts]
    return b"".join(b"--" + BOUNDARY + b"\r\n" + part for part in ordered) + b"--" + BOUNDARY + b"--\r\n"


def transcoded(body: bytes, cuts: list[int]) -> Sent:
    form = FormTranscoder(f"multipart/form-data; boundary={BOUNDARY.decode()}")
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for begin, end in itertools.pairwise(places):
        form.feed(body[begin:end])
    assert form.is_complete
    assert form.body() == {"model": "public"}
    _, options = parse_options_header(form.content_type)
    sent = Sent("", {})
    form_parser(sent, options[b"boundary"]).write(form.head("theirs") + bytes(form.written))
    return sent


CUTS = st.lists(st.integers(0, 3000), max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=4), CUTS, st.booleans())
def test_the_same_fields_and_files_arrive(files: list[tuple[str, bytes]], cuts: list[int], model_last: bool) -> None:
    sent = transcoded(form_of(files, model_last=model_last), cuts)
    assert sent.fields == {"model": "theirs"}
    assert [(part.name, part.filename, part.size) for part in sent.files] == [
        ("image[]", name, len(data)) for name, data in files
    ]


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ("; filename*=UTF-8''%E5%BD%95%20%C3%A9.png", "录 é.png"),
        ("; filename=\"a.png\"; filename* = utf-8'zh'%E5%BD%95.png", "录.png"),
        ("; filename*=iso-8859-1''%E9.png", "é.png"),
        ("; filename=\"a; filename*=utf-8''b.png\"", "a; filename*=utf-8''b.png"),
        ('; filename="录 音.png"', "录 音.png"),
        ("; filename*=utf-8''%FF%22.png; filename=b.png", "\ufffd%22.png"),
    ],
)
def test_a_filename_may_be_encoded(disposition: str, filename: str) -> None:
    part = f'Content-Disposition: form-data; name="image[]"{disposition}\r\n\r\nPNG\r\n'.encode()
    (sent,) = transcoded(
        form_of([], model_last=False).replace(b"--\r\n", b"\r\n" + part + b"--" + BOUNDARY + b"--\r\n"), []
    ).files
    assert sent.filename == filename


def test_a_file_cannot_hold_a_second_model() -> None:
    """Servers may take a bare line feed for a line end: the boundary in the file is not the one that they look for."""
    hidden = b"\n--" + BOUNDARY + b'\nContent-Disposition: form-data; name="model"\n\nanother\n--' + BOUNDARY + b"--\n"
    sent = transcoded(form_of([("a.png", hidden)], model_last=False), [])
    assert [part.size for part in sent.files] == [len(hidden)]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (b'Content-Disposition: form-data; name="model"\r\n\r\nx\r\n', "given twice"),
        (b'Content-Disposition: form-data; name="model"; filename="m"\r\n\r\nx\r\n', "must be text"),
        (b"Content-Disposition: form-data\r\n\r\nx\r\n", "has no name"),
        (b'Content-Disposition: form-data; name="stream"\r\n\r\nperhaps\r\n', "true or false"),
        (b"X: " + b"y" * 9000 + b"\r\n\r\nx\r\n", "header"),
        (
            b'Content-Disposition: form-data; name="prompt"\r\n\r\n' + b"x" * (2**20 + 1) + b"\r\n",
            "more than 1048576",
        ),
    ],
)
def test_what_is_no_such_form(part: bytes, said: str) -> None:
    last = b"--" + BOUNDARY + b"--\r\n"
    body = form_of([("a", b"b")], model_last=False).removesuffix(last) + b"--" + BOUNDARY + b"\r\n" + part + last
    with pytest.raises(InvalidRequest, match=said):
        read(body)


def read(body: bytes) -> None:
    form = FormTranscoder(f"multipart/form-data; boundary={BOUNDARY.decode()}")
    form.feed(body)
    form.body()
