"""What tests of the gateway share: gateways with local models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from running_gateway import Running


@pytest.fixture
def local(gateway: Callable[..., Running], tmp_path: Path) -> Callable[..., Running]:
    """``local(name={…})``: a gateway whose local models are these and no other."""

    def start(models: dict[str, dict[str, Any]] | None = None, **named: dict[str, Any]) -> Running:
        models = {**{name: {"parallel": 1, **model} for name, model in named.items()}, "gemma-3-270m": None}
        return gateway(llm={"providers": {"local": {"models": models}}})

    return start


@pytest.fixture
def llama(local: Callable[..., Running], tmp_path: Path) -> Running:
    from tiny_gguf import write_llama  # late: a test tries this file alone, in a directory of its own

    return local(tiny={"path": str(write_llama(tmp_path / "llama.gguf")), "temperature": 0, "max_tokens": 6})
