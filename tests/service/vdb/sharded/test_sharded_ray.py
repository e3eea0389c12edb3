"""A collection sharded over Ray actors: the same answers as one store, and clear words when an actor dies."""

from __future__ import annotations

import os
import pickle
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from sage.service.vdb.sharded.collection import PartlyWritten

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("sharded_ray.py")


@pytest.fixture(scope="module")
def report() -> Iterator[dict[str, Any]]:
    """What :mod:`sharded_ray` saw."""
    with tempfile.TemporaryDirectory(prefix="ray") as directory:  # short: it holds sockets
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        run = subprocess.run(
            [sys.executable, str(SCRIPT), f"{directory}/data", f"{directory}/ray"],
            env=environment,
            capture_output=True,
            timeout=180,
            check=False,
        )
        assert run.returncode == 0, run.stderr.decode()[-4000:]
        yield orjson.loads(run.stdout.splitlines()[-1])


def test_the_answers_are_those_of_one_store(report: dict[str, Any]) -> None:
    assert report["pids"] == 4  # three actors, each a process, and their caller
    assert report["same"] == [True] * 7


def test_a_fault_of_the_request_arrives_as_itself(report: dict[str, Any]) -> None:
    assert report["bad filter"][0] == "InvalidRequest"
    assert "$what" in report["bad filter"][1]


def test_a_killed_actor_is_named_and_never_passed_over_unasked(report: dict[str, Any]) -> None:
    kind, message = report["dead"]
    assert kind == "Unavailable"
    assert message.startswith("collection 'c': shard 1 of 3 failed (the actor of the service 'shard' died")
    assert report["partial"]["shards"] == [0, 2]
    assert report["partial"]["warnings"][0].startswith("of 2 of 3 shards only: shard 1 of 3 failed")


def test_what_was_partly_written_is_finished_once_the_shard_is_back(report: dict[str, Any]) -> None:
    message, same_ids = report["partly"]
    assert "the documents of 2 other shards are written; send the same documents" in message
    assert same_ids
    assert report["again"] == [True, True]
    assert report["same again"] == [True]


def test_the_error_of_a_partial_write_crosses_processes_with_its_ids() -> None:
    copied = pickle.loads(pickle.dumps(PartlyWritten("half", ["a", "b"])))
    assert (copied.message, copied.ids, copied.code) == ("half", ["a", "b"], "partly_written")
