"""Jobs in words: their rows in a table, their pages, their progress."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from sage.middleware.cli.language.catalogue import N_, _
from sage.middleware.cli.output import plain
from sage.middleware.cli.tasks.evaluation import TABLES, is_report

STATES = (
    N_("queued"),
    N_("running"),
    N_("cancelling"),
    N_("cancelled"),
    N_("succeeded"),
    N_("failed"),
    N_("dead"),
)
"""What ``_`` translates when a state is shown."""
View = dict[str, Any]
_LONGEST_RESULT = 400


def row(view: View) -> tuple[object, ...]:
    """The job in the table of ``sage tasks list``."""
    progress = view["progress"]
    total, done = progress["total"], progress["done"] + progress["failed"]
    return (
        view["id"],
        view["kind"],
        _(view["state"]),
        done if total is None else f"{done}/{total}",
        progress["failed"],
        view["user"],
        _moment(view["created_at"]),
        _duration(view),
    )


def describe(view: View) -> list[str]:
    """The job as the lines of ``sage tasks show``."""
    return [
        f"{plain(view['id'])}: {plain(view['kind'])}, {_(view['state'])}",
        *(_("  {title}: {text}").format(title=title, text=text) for title, text in _facts(view)),
    ]


def _facts(view: View) -> Iterator[tuple[str, str]]:
    yield _("progress"), progress_text(view)
    yield _("submitted"), f"{_moment(view['created_at'])} ({plain(view['user'])})"
    if view["started_at"] is not None:
        yield _("started"), _moment(view["started_at"])
    if view["finished_at"] is not None:
        yield _("ended"), f"{_moment(view['finished_at'])} ({_duration(view)})"
    if view["expires_at"] is not None:
        yield _("kept until"), _moment(view["expires_at"])
    yield _("priority"), plain(view["priority"])
    if view["deliveries"] > 1:
        yield _("deliveries"), str(view["deliveries"])
    if view["metadata"]:
        yield _("metadata"), plain(json.dumps(view["metadata"], ensure_ascii=False))
    if (webhook := view.get("webhook")) is not None:
        yield _("webhook"), plain(f"{webhook['url']} ({webhook['state']})")
    for title, field in ((_("output"), "output_file_id"), (_("errors"), "error_file_id")):
        if view[field] is not None:
            yield title, plain(view[field])
    if view["error"] is not None:
        yield _("error"), plain(f"{view['error']['message']} ({view['error']['code']})")
    if view["result"] is not None:
        tables = TABLES if is_report(view["result"]) else ()
        rest = {name: value for name, value in view["result"].items() if name not in tables}
        text = plain(json.dumps(rest, ensure_ascii=False))
        yield _("result"), text if len(text) <= _LONGEST_RESULT else f"{text[:_LONGEST_RESULT]}…"


def progress_text(view: View) -> str:
    """How far the job is: ``120/2000, failed: 3, 41.2/s, time left: 46 s``."""
    return _(", ").join(progress_facts(view))


def progress_facts(view: View) -> list[str]:
    progress = view["progress"]
    finished, total, failed = progress["done"] + progress["failed"], progress["total"], progress["failed"]
    facts = [str(finished) if total is None else f"{finished}/{total}"]
    if failed:
        facts.append(_("failed: {count}").format(count=failed))
    if view["finished_at"] is None:
        if progress["rate"]:
            facts.append(f"{_rate_text(progress['rate'])}/s")
        if progress["seconds_left"] is not None:
            facts.append(_("time left: {time}").format(time=time_text(progress["seconds_left"])))
    return facts


def _rate_text(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def time_text(seconds: float) -> str:
    """``46 s``, ``3:20 min``, ``2:05 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


def _moment(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _duration(view: View) -> str:
    if view["started_at"] is None:
        return "-"
    end = view["finished_at"] if view["finished_at"] is not None else time.time()
    return time_text(max(end - view["started_at"], 0.0))
