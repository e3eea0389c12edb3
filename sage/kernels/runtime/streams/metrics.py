"""The progress and the metrics of a job, summed over its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.kernels.runtime.streams.channels import Channel
from sage.kernels.runtime.streams.source_task import SourceTask
from sage.kernels.runtime.streams.stages import StageTask
from sage.kernels.runtime.streams.task import Task

StageChannels = Mapping[str, Sequence[Channel]]
"""The channels of each stage, by its name."""


def progress_of(tasks: Sequence[Task], channels: StageChannels, last_stages: frozenset[str]) -> dict[str, int]:
    """``last_stages``: the names of the stages that no other stage reads."""
    last = [task.counts for task in tasks if task.stage in last_stages]
    return {
        "read": sum(task.counts.put for task in tasks if isinstance(task, SourceTask)),
        "done": sum(counts.taken - counts.skipped - counts.dead_letters for counts in last),
        "waiting": sum(_waiting(stage_channels) for stage_channels in channels.values()),
        "skipped": sum(task.counts.skipped for task in tasks),
        "dead_letters": sum(task.counts.dead_letters for task in tasks),
    }


def metrics_of(tasks: Sequence[Task], channels: StageChannels) -> dict[str, dict[str, Any]]:
    """By the name of the source or stage."""
    metrics: dict[str, dict[str, Any]] = {}
    for task in tasks:
        stage = metrics.setdefault(task.stage, {"workers": 0})
        for name, figure in _figures(task).items():
            stage[name] = stage.get(name, 0) + figure
        if isinstance(task, SourceTask):
            stage |= task.source.describe()
    for name, stage_channels in channels.items():
        metrics[name]["waiting"] = _waiting(stage_channels)
    return metrics


def _figures(task: Task) -> dict[str, Any]:
    counts = task.counts
    figures: dict[str, Any] = {"workers": 1, "out": counts.put, "errors": counts.errors}
    figures |= {"skipped": counts.skipped, "retried": counts.retried, "dead_letters": counts.dead_letters}
    if isinstance(task, StageTask):
        figures |= {"in": counts.taken, "seconds": counts.seconds}
    return figures


def _waiting(channels: Sequence[Channel]) -> int:
    return sum(len(channel) for channel in channels)
