"""Two dozen threads guess one password, and the passwords of many names, from one address."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

from hostile.attack import Attack, outcomes
from hostile.target import Answer, Target

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_PASSWORD = "correct horse battery staple"


async def run(target: Target) -> dict[str, Any]:
    def login(name: str, password: str) -> Answer:
        form = urlencode({"username": name, "password": password}).encode()
        return target.send("POST", "/auth/token", form, headers=_FORM)

    assert (await asyncio.to_thread(login, "mallory", _PASSWORD)).status == 200
    loop, guessers = asyncio.get_running_loop(), ThreadPoolExecutor(24)
    guesses = [
        loop.run_in_executor(guessers, login, name, f"a wrong password {number}")
        for number in range(target.count(400, 60))
        for name in ("alice", f"name{number}")
    ]
    worst = 0.0
    for _ in range(5):  # somebody else who has logged in from here before
        began = time.perf_counter()
        own = await asyncio.to_thread(login, "mallory", _PASSWORD)
        worst = max(worst, time.perf_counter() - began)
        assert own.status == 200, own
    answers = await asyncio.gather(*guesses)
    assert {answer.status for answer in answers} <= {401, 429}
    checked = sum(answer.status == 401 for answer in answers)
    assert checked <= 40, f"{checked} guesses were checked"
    return {**outcomes(answers), "worst ms of another's login": round(1000 * worst)}


ATTACK = Attack("guessed_passwords", run, seconds=120)
