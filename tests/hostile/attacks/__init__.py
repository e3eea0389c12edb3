"""The attacks, one module each, in the order in which they run."""

from __future__ import annotations

from hostile.attack import Attack
from hostile.attacks import (
    foreign_addresses,
    guessed_passwords,
    large_bodies,
    leaving_clients,
    local_memory,
    long_queue,
    malformed_requests,
    many_chats,
    many_searches,
    multiplied_work,
    snapshot_bombs,
    waiting_clients,
)

_ALL = (
    many_chats,
    local_memory,
    multiplied_work,
    foreign_addresses,
    long_queue,
    leaving_clients,
    many_searches,
    waiting_clients,
    large_bodies,
    guessed_passwords,
    malformed_requests,
    snapshot_bombs,
)

ATTACKS: dict[str, Attack] = {module.ATTACK.name: module.ATTACK for module in _ALL}
