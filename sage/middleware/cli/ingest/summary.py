"""The summary of ``sage ingest`` for people."""

from __future__ import annotations

import time

from sage.middleware.cli.language.catalogue import _
from sage.middleware.ingest.summary import Summary

_MOST_EMPTY = 50  # files without text that are named


def empty_lines(summary: Summary) -> list[str]:
    """A line for each file without text, for people."""
    lines = [_("empty: {file}: has no text").format(file=file) for file in summary.empty_files[:_MOST_EMPTY]]
    more = summary.empty - len(lines)
    return [*lines, _("empty: {count} more files have no text").format(count=more)] if more else lines


def summary_lines(summary: Summary) -> list[str]:
    """The summary for people, without the failures."""
    files = [
        (_("{count} new"), summary.added),
        (_("{count} changed"), summary.changed),
        (_("{count} unchanged"), summary.unchanged),
        (_("{count} empty"), summary.empty),
        (_("{count} failed"), len(summary.failed_files)),
        (_("{count} no longer there"), summary.pruned),
    ]
    counts = _(", ").join(text.format(count=count) for text, count in files if count) or _("none")
    message = _("documents: {read} read, {sent} sent, {deleted} deleted; {seconds} s")
    if summary.dry_run:
        message = _("documents: {read} read, {sent} would be sent, {deleted} deleted; {seconds} s")
    seconds = f"{time.monotonic() - summary.start:.1f}"
    lines = [
        _("{collection}: files: {counts}").format(collection=summary.collection, counts=counts),
        message.format(read=summary.chunks, sent=summary.sent, deleted=summary.deleted, seconds=seconds),
    ]
    if summary.skipped:
        skipped = _(", ").join(
            _("{count} {reason}").format(count=count, reason=_(reason))
            for reason, count in sorted(summary.skipped.items())
        )
        lines.append(_("skipped: {counts}").format(counts=skipped))
    return lines
