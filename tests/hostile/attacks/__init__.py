"""The attacks, one module each, in the order in which they run."""

from __future__ import annotations

from hostile.attack import Attack
from hostile.attacks import many_chats

ATTACKS: dict[str, Attack] = {attack.name: attack for attack in (many_chats.ATTACK,)}
