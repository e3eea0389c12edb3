"""The settings of jobs: schedules and their moments, the broker's URL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from sage.errors import ConfigError
from sage.middleware.settings.cron import Cron
from sage.middleware.settings.queue import JobSchedule, QueueSettings, check_broker
from sage.middleware.settings.reading import load_settings
from sage.middleware.settings.settings import Settings


def schedule(**fields: Any) -> JobSchedule:
    return JobSchedule.model_validate({"task": "snapshot", "user": "alice", **fields})


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("root", ["", "data", "data/queue", "link"])
def test_the_keys_of_the_installation_are_never_among_the_sources(tmp_path: Path, root: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    data = {"data_dir": tmp_path / "data", "queue": {"ingest": {"roots": [tmp_path / root]}}}
    with pytest.raises(ValidationError, match="could read the keys"):
        Settings.model_validate(data)
    data["queue"] = {"ingest": {"roots": [tmp_path / "data-sources"]}}
    assert Settings.model_validate(data).queue.ingest.roots == (tmp_path / "data-sources",)


@pytest.mark.parametrize(
    ("ingest", "reason"),
    [
        ({"roots": ["srv/docs"]}, "not an absolute path"),
        ({"url_hosts": ["https://docs.example.com"]}, "has no port from 1 to 65535"),
        ({"url_hosts": ["docs*.example.com"]}, "is not a host such as"),
        ({"url_hosts": ["10.1.2.3/16"]}, "is not a host such as"),
        ({"max_files": 0}, "greater than or equal to 1"),
    ],
)
def test_sources_that_are_none_are_errors(ingest: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        QueueSettings.model_validate({"ingest": ingest})


@pytest.mark.parametrize(
    ("cron", "zone", "now", "due"),
    [
        ("0 3 * * *", "UTC", "2026-11-30T03:00:00+00:00", "2026-11-30T03:00:00+00:00"),
        ("0 3 * * *", "UTC", "2026-11-30T02:59:59+00:00", "2026-11-29T03:00:00+00:00"),
        ("*/15 9-17 * * mon-fri", "UTC", "2026-11-28T12:00:00+00:00", "2026-11-27T17:45:00+00:00"),
        ("0 0 29 2 *", "UTC", "2026-11-30T00:00:00+00:00", "2024-02-29T00:00:00+00:00"),
        ("0 0 1 * 1", "UTC", "2026-11-30T10:00:00+00:00", "2026-11-30T00:00:00+00:00"),  # a Monday, not a first
        ("0 0 * * 7", "UTC", "2026-11-30T10:00:00+00:00", "2026-11-29T00:00:00+00:00"),
        ("@monthly", "Asia/Shanghai", "2026-11-30T16:00:00+00:00", "2026-11-30T16:00:00+00:00"),
        # Spring: 02:30 is not there; autumn: 02:30 comes twice, and counts once.
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T12:00:00+02:00", "2026-03-29T03:30:00+02:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T12:00:00+01:00", "2026-10-25T02:30:00+02:00"),
    ],
)
def test_the_last_moment_of_a_cron_expression(cron: str, zone: str, now: str, due: str) -> None:
    assert schedule(cron=cron, timezone=zone).latest_due(moment(now)) == moment(due)


@settings(max_examples=50, deadline=None)
@given(
    minute=st.sampled_from(["*", "0", "*/7", "5,50", "10-20/5"]),
    hour=st.sampled_from(["*", "2", "1-3", "*/5"]),
    day=st.sampled_from(["*", "1", "31", "*/10"]),
    weekday=st.sampled_from(["*", "0", "sat", "1-5"]),
    offset=st.integers(0, 400 * 86400),
)
def test_it_is_what_a_search_by_single_minutes_finds(
    minute: str, hour: str, day: str, weekday: str, offset: int
) -> None:
    zone, now = ZoneInfo("UTC"), datetime(2026, 1, 5, tzinfo=UTC) + timedelta(seconds=offset)
    cron = Cron.parse(f"{minute} {hour} {day} * {weekday}")
    found = cron.latest(now, zone)
    assert found is not None
    assert found <= now
    assert cron.latest(found, zone) == found
    step = found + timedelta(minutes=1)
    for _ in range(200):  # no moment in between, as far as that is looked at
        if step > now:
            break
        assert not (
            step.minute in cron.minutes
            and step.hour in cron.hours
            and (
                (step.day in cron.days or step.isoweekday() % 7 in cron.weekdays)
                if cron.either_day
                else (step.day in cron.days and step.isoweekday() % 7 in cron.weekdays)
            )
        )
        step += timedelta(minutes=1)


def test_every_is_counted_from_1970_so_that_two_processes_agree() -> None:
    assert schedule(every="1h").latest_due(1_800_003_700.5) == 1_800_003_600
    assert schedule(every="90s").latest_due(1_800_000_089) == 1_800_000_000
    assert schedule(every="90s").next_due(1_800_000_089) == 1_800_000_090


@given(
    st.integers(1_500_000_000, 2_000_000_000), st.sampled_from(["* * * * *", "0 3 * * *", "30 2 * * 0", "0 0 29 2 *"])
)
@settings(max_examples=60, deadline=None)
def test_the_next_moment_is_the_first_that_comes(now: int, cron: str) -> None:
    rule = schedule(cron=cron, timezone="Europe/Berlin")
    due = rule.next_due(now)
    assert due is not None
    assert due > now
    assert rule.latest_due(due) == due
    assert rule.latest_due(due - 1) == rule.latest_due(now)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cron": "0 3 * *"}, "is no cron expression"),
        ({"cron": "60 3 * * *"}, "'60' is no minute; it goes from 0 to 59"),
        ({"cron": "0 3 * * fry"}, "'fry' is no day of the week"),
        ({"cron": "0 3 30 2 *"}, "a day that never comes"),
        ({"cron": "*/0 * * * *"}, "a step of the minute is 1 or more"),
        ({"cron": "30-10 * * * *"}, "goes upwards"),
        ({"cron": "²3 * * * *"}, "is no value of the minute"),
        ({"every": "0.5s"}, "one second or more"),
        ({"every": "1h", "cron": "@daily"}, "give either 'cron'"),
        ({}, "give either 'cron'"),
        ({"every": "1h", "timezone": "../../etc/passwd"}, "there is no time zone"),
        ({"every": "1h", "timezone": "Mars/Olympus"}, "there is no time zone"),
        ({"every": "1h", "task": "destroy"}, "'generate', 'embed'"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        schedule(**fields)


def test_a_bad_schedule_is_a_fault_that_names_its_key(tmp_path: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("queue: {schedules: {nightly: {cron: 'at night', task: snapshot, user: alice}}}")
    with pytest.raises(ConfigError, match=r"queue\.schedules\.nightly\.cron: 'at night' is no cron expression"):
        load_settings(file, {})


@pytest.mark.parametrize(
    "url", ["redis://localhost:6379", "redis://:pass@host:1/3", "rediss://u:p@host", "redis://[::1]:1"]
)
def test_urls_of_redis_are_brokers(url: str) -> None:
    check_broker(SecretStr(url))


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "amqp://s3cret@host",
        "redis://",
        "redis://host:0",
        "redis://h ost",
        "redis://host/a/b",
        "sqla+sqlite:///x",
    ],
)
def test_other_urls_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=r"queue\.broker is not the URL of a Redis server") as caught:
        check_broker(SecretStr(url))
    assert "s3cret" not in caught.value.message


def test_the_gateway_runs_a_worker_of_its_own_only_without_a_broker() -> None:
    assert QueueSettings().runs_worker
    assert not QueueSettings(broker=SecretStr("redis://host")).runs_worker
    assert QueueSettings(broker=SecretStr("redis://host"), embedded_worker=True).runs_worker
    assert not QueueSettings(embedded_worker=False).runs_worker
