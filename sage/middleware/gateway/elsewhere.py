"""What is raised where another process of the gateway has to answer."""

from __future__ import annotations


class Elsewhere(Exception):
    """The owner has to answer this request; nothing of it was done."""
