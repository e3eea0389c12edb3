"""The process of one attack: ``python -m hostile.attacker NAME`` reads its target from stdin and prints the outcome."""

from __future__ import annotations

import asyncio
import json
import sys

from hostile.attacks import ATTACKS
from hostile.target import Target


def main(name: str) -> int:
    target = Target(**json.load(sys.stdin))
    try:
        outcome = asyncio.run(ATTACKS[name].run(target))
    except AssertionError as exc:
        sys.stdout.write(json.dumps({"wrong": str(exc)}))
        return 1
    sys.stdout.write(json.dumps(dict(outcome)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
