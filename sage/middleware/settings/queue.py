"""The settings of jobs: the broker and the workers, what jobs may take, their schedules."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from sage.addresses import AllowedHosts
from sage.errors import ConfigError
from sage.middleware.settings.cron import Cron
from sage.middleware.settings.flower import FlowerSettings
from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Duration, Size, Text, expand
from sage.middleware.settings.webhooks import WebhookSettings

BROKER_SCHEMES = ("redis", "rediss")


def check_broker(url: SecretStr | None) -> None:
    """Raises :class:`ConfigError`, which does not show the URL, since it may hold a password."""
    if url is None:
        return
    try:
        parts = urlsplit(url.get_secret_value())
        good = parts.scheme in BROKER_SCHEMES and parts.hostname and (parts.port is None or parts.port > 0)
        good = good and re.fullmatch(r"(/\d*)?", parts.path) and not re.search(r"\s", url.get_secret_value())
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            "queue.broker is not the URL of a Redis server such as redis://localhost:6379/0 (rediss:// with TLS; "
            "redis://:password@host:6379); without it jobs are carried by files in data_dir"
        )


def _url_host(entry: str) -> str:
    AllowedHosts([entry], "queue.ingest.url_hosts")
    return entry


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"'{path}' is not an absolute path")
    return path


class IngestSources(SettingsSection):
    """What jobs may read into collections beside uploaded files."""

    roots: tuple[Annotated[Path, AfterValidator(expand), AfterValidator(_absolute)], ...] = ()
    """Directories of the gateway's machine below which jobs may read files."""
    url_hosts: tuple[Annotated[Text, AfterValidator(_url_host)], ...] = ()
    """Hosts from which jobs may fetch documents, as :class:`sage.addresses.AllowedHosts` reads them."""
    max_file: Size = 256 * 2**20
    """Bytes of one document."""
    max_files: int = Field(10_000, ge=1)
    """Files of one job, those in its directories counted."""
    max_bytes: Size = 10 * 2**30
    """Bytes of the files of one job that are below ``roots``."""


class JobLimits(SettingsSection):
    """Bounds on what jobs may take."""

    max_unfinished: int = Field(10_000, ge=1)
    """Jobs of one tenant that have not ended."""
    max_lines: int = Field(50_000, ge=1)
    """Lines of one job."""
    max_line: Size = 8 * 2**20
    """Bytes of one line."""
    max_models: int = Field(64, ge=1)
    """Models of one evaluation."""
    max_file: Size = 512 * 2**20
    """Bytes of one uploaded file."""
    max_files_total: Size = 20 * 2**30
    """Bytes of all files of one tenant."""


_FAR_AHEAD = 8 * 366 * 86400


class JobSchedule(SettingsSection):
    """A job that is submitted again and again."""

    cron: Text | None = None
    every: Duration | None = None
    """Seconds. Counted from 1970, so it does not depend on when something was started."""
    timezone: Text = "UTC"
    task: Literal["generate", "embed", "ingest", "reembed", "snapshot", "evaluate"]
    params: dict[str, Any] = Field(default_factory=dict)
    """The body of ``POST /tasks/{task}``."""
    user: Text
    """Whose rights the job has, and who pays for it."""
    tenant: Text | None = None
    """``None`` means the user's."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, OSError, KeyError) as exc:  # which of them depends on what is wrong with the name
            raise ValueError(f"there is no time zone '{name[:80]}'; write one such as UTC or Asia/Shanghai") from exc
        return name

    @field_validator("cron")
    @classmethod
    def _good_cron(cls, text: str | None) -> str | None:
        if text is not None:
            Cron.parse(text)
        return text

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.cron is None) == (self.every is None):
            raise ValueError("give either 'cron', such as '0 3 * * *', or 'every', such as 1h")
        if self.every is not None and self.every < 1:
            raise ValueError("'every' is one second or more")
        return self

    def latest_due(self, now: float) -> int | None:
        """The last moment at or before ``now`` (Unix seconds) at which it is due; ``None`` means that there is none."""
        if self.every is not None:
            return int(now // self.every * self.every)
        assert self.cron is not None
        moment = Cron.parse(self.cron).latest(datetime.fromtimestamp(now, UTC), ZoneInfo(self.timezone))
        return None if moment is None else int(moment.timestamp())

    def next_due(self, now: float) -> int | None:
        """The first moment after ``now`` at which it is due; ``None`` means that none comes within eight years."""
        last = self.latest_due(now)
        if self.every is not None:
            return int((now // self.every + 1) * self.every)
        ahead = 60.0
        while self.latest_due(now + ahead) == last:
            ahead *= 2
            if ahead > _FAR_AHEAD:
                return None
        early, late = now + ahead / 2 if ahead > 60 else now, now + ahead
        while late - early > 1:  # the latest moment at `early` is still the last one
            middle = (early + late) / 2
            early, late = (middle, late) if self.latest_due(middle) == last else (early, middle)
        return self.latest_due(late)


ScheduleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class QueueSettings(SettingsSection):
    """Jobs: where they wait, what runs them, what they may take."""

    broker: SecretStr | None = None
    """The URL of a Redis server, which may hold a password; ``None`` means files in ``data_dir``."""
    backend: SecretStr | None = None
    """Read for the sake of the first documents' configuration; results are in ``data_dir``, with or without it."""
    embedded_worker: bool | None = None
    """Whether ``sage serve`` runs a worker as its child; ``None`` means only without a broker."""
    concurrency: int = Field(2, ge=1, le=256)
    """Jobs that the embedded worker runs at a time."""
    item_concurrency: int = Field(8, ge=1, le=256)
    """Lines of one job that are worked on at a time."""
    time_limit: Duration = 86400.0
    """Seconds that a job may run which names no limit of its own."""
    result_ttl: Duration = 7 * 86400.0
    """Seconds after its end that a job, its results and its files are kept."""
    ingest: IngestSources = Field(default_factory=IngestSources)
    flower: FlowerSettings = Field(default_factory=FlowerSettings)
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    limits: JobLimits = Field(default_factory=JobLimits)
    schedules: dict[ScheduleName, JobSchedule] = Field(default_factory=dict)

    @property
    def runs_worker(self) -> bool:
        """Whether the gateway runs a worker of its own."""
        return self.broker is None if self.embedded_worker is None else self.embedded_worker
