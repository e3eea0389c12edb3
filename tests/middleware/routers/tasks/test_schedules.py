"""Schedules: a moment makes one job, whoever tells of it, and however often; what was missed is made up for once."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import requests
from running_gateway import PASSWORD, run_gateway
from upstream import Upstream

from sage.middleware.auth.grants import KeyRequest
from sage.middleware.database.database import Database
from sage.middleware.queue.database import open_jobs_database
from sage.middleware.queue.schedule_runs import ScheduleRuns
from sage.middleware.settings.settings import Settings
from sage.middleware.worker.agenda import Agenda
from sage.middleware.worker.control import ControlConnection

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

ASK = {"task": "generate", "params": {"model": "bench", "prompt": "hello"}, "user": "root"}


def settings_of(data_dir, upstream, schedules, **queue):
    return Settings.model_validate(
        {
            "data_dir": data_dir,
            "api": {"port": 0, "access_log": False},
            "queue": {"schedules": schedules, **queue},
            "llm": {
                "providers": {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "secret"}},
                "models": {"bench": {"deployments": [{"provider": "up", "model": "bench"}]}},
            },
        }
    )


@pytest.fixture(scope="module")
def upstream():
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory, upstream):
    schedules = {
        "daily": {"cron": "0 3 * * *", **ASK},
        "quick": {"every": "1s", **ASK},
        "beats": {"every": "1s", **ASK},
        "shown": {"every": "1s", **ASK},
        "nobodys": {"every": "1s", **ASK, "user": "nobody"},
        "wrong": {"every": "1s", **ASK, "params": {"model": "bench"}},
        "elsewhere": {"every": "1s", **ASK, "tenant": "another"},
    }
    data_dir = tmp_path_factory.mktemp("schedules") / "data"
    with run_gateway(settings_of(data_dir, upstream, schedules, embedded_worker=False)) as gateway:
        yield gateway


def jobs(running):
    return running.get("/tasks?limit=100").json()["tasks"]


def fire(running, name, due, status=200):
    answer = running.post(f"/worker/schedules/{name}/{due}", {})
    assert answer.status_code == status, answer.text
    return answer.json()


def hello(running):
    return running.post("/worker/hello", {"worker": "hand", "concurrency": 1}).json()["schedules"]


def test_a_moment_makes_one_job_of_its_user(running):
    hello(running)
    due = int(time.time()) + 2
    first = fire(running, "quick", due)
    assert first["job"] is not None
    assert fire(running, "quick", due) == {"job": None}
    assert fire(running, "quick", due - 1) == {"job": None}, "a moment before one that was done"
    made = [job for job in jobs(running) if job["id"] == first["job"]]
    assert [(job["kind"], job["user"]) for job in made] == [("generate", "root")]
    assert hello(running)["quick"]["last"] == due


def test_a_moment_whose_note_was_lost_makes_no_second_job(running):
    hello(running)
    due = int(time.time()) + 4
    first = fire(running, "quick", due)
    database = open_jobs_database(running.settings.data_dir / "queue")
    forget(database, "quick", due)
    assert ScheduleRuns(database).last("quick", due - 1) == due - 1
    again = fire(running, "quick", due)
    database.close()
    assert again == first


def forget(database: Database, name: str, due: int) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM schedule_runs WHERE name = ?", (name,))


def test_what_is_no_moment_or_no_schedule_is_refused(running):
    now = int(time.time())
    assert fire(running, "daily", now - now % 60 + 1, 400)["error"]["param"] == "due"
    assert fire(running, "quick", now + 60, 400)["error"]["param"] == "due"
    assert fire(running, "unknown", now, 404)["error"]["code"] == "schedule_not_found"
    assert requests.post(f"{running.url}/worker/schedules/quick/{now}", json={}).status_code == 401


def test_schedules_are_listed_and_started_by_hand(running):
    listed = {each["name"]: each for each in running.get("/schedules").json()["schedules"]}
    assert set(listed) == {"daily", "quick", "beats", "shown", "nobodys", "wrong", "elsewhere"}
    daily = listed["daily"]
    assert (daily["cron"], daily["every"], daily["task"], daily["user"]) == ("0 3 * * *", None, "generate", "root")
    assert daily["params"] == ASK["params"]
    assert 0 < daily["next"] - time.time() <= 86400
    assert (daily["last"], daily["last_job"]) == (None, None)
    started = running.post("/schedules/daily/run")
    assert (started.status_code, started.json()["kind"]) == (202, "generate")
    hello(running)
    due = int(time.time()) + 2
    job = fire(running, "shown", due)["job"]
    assert job is not None
    shown = next(each for each in running.get("/schedules").json()["schedules"] if each["name"] == "shown")
    assert (shown["last"], shown["last_job"]) == (due, job)
    assert running.post("/schedules/unknown/run").json()["error"]["code"] == "schedule_not_found"
    assert running.post("/schedules/nobodys/run").status_code == 403


def test_others_see_the_schedules_in_their_name(running):
    running.accounts.users.add("mei", PASSWORD, role="user")
    key = running.accounts.keys.create_for("mei", KeyRequest("tests")).secret
    assert running.get("/schedules", key=key).json() == {"schedules": []}
    assert running.post("/schedules/daily/run", key=key).status_code == 404


def test_a_new_schedule_begins_with_its_next_moment(running):
    last = hello(running)["daily"]["last"]
    assert 0 <= time.time() - last < 86400
    assert fire(running, "daily", last) == {"job": None}


@pytest.mark.parametrize("name", ["nobodys", "wrong", "elsewhere"])
def test_what_cannot_be_done_is_skipped_and_said(running, name, caplog):
    hello(running)
    due = int(time.time()) + 3
    assert fire(running, name, due) == {"job": None}
    assert f"queue.schedules.{name} makes no job" in caplog.text
    assert hello(running)[name]["last"] == due


def test_two_beats_make_one_job_for_each_moment_and_what_was_missed_makes_one(running):
    hello(running)
    start = int(time.time()) + 1
    fire(running, "beats", start)
    now = [float(start)]
    before = len(jobs(running))
    connections = [ControlConnection(running.url, running.key) for _ in range(2)]
    agendas = [Agenda(connection, clock=lambda: now[0]) for connection in connections]
    for agenda in agendas:
        agenda.update({"beats": hello(running)["beats"]})
        agenda.fire_due()
    assert len(jobs(running)) == before, "nothing is due"
    now[0] = time.time() + 4  # several moments have passed, and both see it
    for agenda in agendas:
        agenda.fire_due()
        agenda.fire_due()
    for connection in connections:
        connection.close()
    assert len(jobs(running)) == before + 1


@pytest.mark.slow
def test_celery_beat_in_the_gateways_own_worker_starts_jobs(tmp_path, upstream):
    schedules = {"often": {"every": "1s", **ASK}}
    with run_gateway(settings_of(tmp_path / "data", upstream, schedules)) as running:
        end = time.monotonic() + 20
        while len(done := [job for job in jobs(running) if job["state"] == "succeeded"]) < 3:
            assert time.monotonic() < end, "no jobs come"
            time.sleep(0.05)
        created = sorted(job["created_at"] for job in done)
        assert all(later - earlier > 0.5 for earlier, later in pairwise(created))
