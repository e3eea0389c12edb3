"""All rows of the benchmark, in the order in which they are measured."""

from __future__ import annotations

from bench import Row
from costs import Chunks, Latency, LongStreams, Prompts, Requests, SlowUpstream
from crowds import FirstChunks, OpenStreams
from governed import Governed
from neighbours import Beside
from starts import Start, Workers
from surface_costs import Surfaces
from wire import Ask

ROWS: tuple[Row, ...] = (
    Start(),
    OpenStreams(),
    Requests(),
    Latency(),
    SlowUpstream(),
    Chunks(),
    LongStreams(),
    Prompts("prompt-100k", "a prompt of 100 KB in two languages, 8 connections", Ask(prompt=100_000), 8, 160),
    Prompts("prompt-1m", "a prompt of 1 MB in two languages, 4 connections", Ask(prompt=1_000_000), 4, 32),
    Prompts(
        "english-100k", "a prompt of 100 KB in plain English, 8 connections", Ask(prompt=100_000, english=True), 8, 160
    ),
    Prompts(
        "english-1m", "a prompt of 1 MB in plain English, 4 connections", Ask(prompt=1_000_000, english=True), 4, 32
    ),
    Beside("beside-images", "small requests beside images of 5 MB, some 10 a second", Ask(image=5_000_000), 0.2),
    Beside("beside-prompts", "small requests beside prompts of 1 MB, some 20 a second", Ask(prompt=1_000_000), 0.1),
    FirstChunks(),
    Workers(),
    Governed(),
    Surfaces(),
)
"""Memory first, while the servers are fresh."""

PROMPTS = {row.name for row in ROWS if isinstance(row, Prompts)}
"""Rows that also nginx as it is installed takes part in."""
