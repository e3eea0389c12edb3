"""Redis' wire: what a server sends comes out as it was, however the network cuts it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import ConfigError
from sage.middleware.limits.redis_wire import RedisError, Reply, ReplyReader, encode
from sage.middleware.settings.reading import load_settings

REPLIES: st.SearchStrategy[Reply] = st.recursive(
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=40), st.none()),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def written(reply: Reply) -> bytes:
    if isinstance(reply, list):
        return b"*%d\r\n%b" % (len(reply), b"".join(map(written, reply)))
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    return b"$-1\r\n" if not isinstance(reply, bytes) else b"$%d\r\n%b\r\n" % (len(reply), reply)


@given(st.lists(REPLIES, max_size=4), st.lists(st.integers(1, 12), min_size=1))
def test_replies_come_out_as_they_were_however_they_are_cut(replies: list[Reply], cuts: list[int]) -> None:
    data, reader, found, number = b"".join(map(written, replies)), ReplyReader(), [], 0
    while data:
        size = cuts[number % len(cuts)]
        found += reader.feed(data[:size])
        data, number = data[size:], number + 1
    assert found == replies


def test_errors_and_simple_strings() -> None:
    ok, error = ReplyReader().feed(b"+OK\r\n-NOSCRIPT No matching script.\r\n")
    assert ok == b"OK"
    assert isinstance(error, RedisError)
    assert str(error) == "NOSCRIPT No matching script."
    with pytest.raises(ValueError, match="no Redis server"):
        ReplyReader().feed(b"HTTP/1.1 400 Bad Request\r\n")


def test_commands() -> None:
    assert encode(("SET", b"k\r\n", -5)) == b"*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$2\r\n-5\r\n"


@pytest.mark.parametrize(
    "url", ["http://u:hunter2@host", "redis://", "redis://u:hunter2@h:0", "redis://u:hunter2@h/x", "h:1"]
)
def test_a_setting_that_is_no_url_of_redis_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"limits: {{redis: '{url}'}}\n")
    with pytest.raises(ConfigError, match=r"limits\.redis: .*is not the URL of a Redis server") as refused:
        load_settings(file, environ={})
    assert "hunter2" not in refused.value.message
    file.write_text("limits: {redis: 'rediss://u:hunter2@host:1/2'}\n")
    assert "hunter2" not in repr(load_settings(file, environ={}))
