"""The attacks, one module each, in the order in which they run."""

from __future__ import annotations

from hostile.attack import Attack
from hostile.attacks import (
    foreign_addresses,
    leaving_clients,
    local_memory,
    long_queue,
    many_chats,
    multiplied_work,
)

_ALL = (many_chats, local_memory, multiplied_work, foreign_addresses, long_queue, leaving_clients)

ATTACKS: dict[str, Attack] = {module.ATTACK.name: module.ATTACK for module in _ALL}
