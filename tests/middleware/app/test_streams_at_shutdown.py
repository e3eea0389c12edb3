"""SIGTERM with many open streams: those that end in time are whole, the others are told, and none is just cut."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from gateway_process import KINDS, gateway_process
from soak_client import Question, ask_all

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("transport", KINDS)
def test_sigterm_with_a_hundred_open_streams_cuts_none(tmp_path: Path, transport: str, workers: int) -> None:
    with gateway_process(tmp_path, transport, ("--workers", str(workers)), shutdown_grace=2) as gateway:

        async def work() -> None:
            upstream, deeds = gateway.upstream, ("hold", "stuck")
            questions = (Question(10_000 + number, deeds[number % 2], stream=True) for number in range(100))
            asking = asyncio.create_task(ask_all(gateway.port, gateway.key, questions, 100))
            async with asyncio.timeout(30):
                while (upstream.held, upstream.working) != (50, 100):
                    await asyncio.sleep(0.02)
                gateway.serving.process.send_signal(signal.SIGTERM)
                while "waiting at most 2 s for" not in gateway.serving.log.read_text():
                    await asyncio.sleep(0.02)
            upstream.gate.set()
            seen = await asking
            assert (seen.good, seen.broken, seen.faults) == (50, {"shutting_down": 50}, [])

        gateway.run(work())
        assert gateway.serving.process.wait(20) == 0
        gateway.check_log()
