"""``sage models recommend``: which well-known small models fit the memory of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import typer

from sage.middleware.cli.language.catalogue import N_, _
from sage.middleware.cli.output import AsJson, print_json, print_table
from sage.middleware.cli.progress import size_text
from sage.middleware.engines.machine_memory import machine_memory
from sage.middleware.providers.local.gguf import PROGRAM_MEMORY
from sage.middleware.settings.providers import LocalModel
from sage.middleware.settings.reading import find_config, load_settings

AS_OF = "2026-11"
"""When the table was made. Sizes are of the file that a pull chooses."""
_COMFORTABLE = 0.7
"""The part of the memory that a model may take and still leave room for the rest of the machine."""


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A model that follows instructions, and what it takes."""

    source: str
    size: int
    """Bytes of its file."""
    cache: int
    """Bytes of key-value cache for each token of context, as 16-bit floats."""
    languages: str
    """Those that it speaks best; ``many`` for several without Chinese among the first."""
    licence: str

    @property
    def memory(self) -> int:
        """Bytes that its engine takes with the options that a pulled model gets."""
        fields = LocalModel.model_fields
        tokens: int = fields["context"].default * fields["parallel"].default
        return self.size + self.cache * tokens + PROGRAM_MEMORY


SMALL_MODELS = (
    SmallModel("hf:bartowski/SmolLM2-360M-Instruct-GGUF", 270_590_880, 40_960, "en", "Apache-2.0"),
    SmallModel("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF", 491_400_032, 12_288, "zh en", "Apache-2.0"),
    SmallModel("hf:ggml-org/gemma-3-1b-it-GGUF", 806_058_240, 26_624, "en", "Gemma"),
    SmallModel("hf:bartowski/Llama-3.2-1B-Instruct-GGUF", 807_694_464, 32_768, N_("many"), "Llama 3.2"),
    SmallModel("hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF", 1_117_320_736, 28_672, "zh en", "Apache-2.0"),
    SmallModel("hf:unsloth/Qwen3.5-2B-GGUF", 1_280_835_840, 24_576, "zh en", "Apache-2.0"),
    SmallModel("hf:ggml-org/SmolLM3-3B-GGUF", 1_915_305_312, 73_728, "many", "Apache-2.0"),
    SmallModel("hf:bartowski/Llama-3.2-3B-Instruct-GGUF", 2_019_377_696, 114_688, "many", "Llama 3.2"),
    SmallModel("hf:ggml-org/gemma-3-4b-it-GGUF", 2_489_757_856, 139_264, "many", "Gemma"),
    SmallModel("hf:unsloth/Phi-4-mini-instruct-GGUF", 2_491_874_272, 131_072, "many", "MIT"),
    SmallModel("hf:unsloth/Qwen3-4B-Instruct-2507-GGUF", 2_497_281_000, 147_456, "zh en", "Apache-2.0"),
    SmallModel("hf:unsloth/Qwen3.5-4B-GGUF", 2_740_937_888, 49_152, "zh en", "Apache-2.0"),
    SmallModel("hf:Qwen/Qwen2.5-7B-Instruct-GGUF", 4_683_073_632, 57_344, "zh en", "Apache-2.0"),
    SmallModel("hf:Qwen/Qwen3-8B-GGUF", 5_027_783_488, 147_456, "zh en", "Apache-2.0"),
)


def recommend(as_json: AsJson = False) -> None:
    """Show well-known small models, and which of them fit the memory of this machine."""
    memory, budget = machine_memory(), load_settings(find_config(None, os.environ), os.environ).llm.memory_budget
    bounds = [bound for bound in (memory, budget) if bound is not None]
    room = min(bounds, default=None)
    rows = [{**asdict(model), "memory": model.memory, "fits": fits(model, room)} for model in SMALL_MODELS]
    if as_json:
        print_json({"as_of": AS_OF, "memory": memory, "memory_budget": budget, "models": rows})
        return
    if room is None:
        typer.echo(_("The memory of this machine is not known."))
    elif room == memory:
        typer.echo(_("This machine lets programs take {memory} of memory.").format(memory=size_text(room)))
    else:
        typer.echo(_("llm.memory_budget lets models take {memory} of memory.").format(memory=size_text(room)))
    print_table(("MODEL", "FILE", "MEMORY", "FITS", "LANG", "LICENCE"), _table(rows))
    best = [row["source"] for row in rows if row["fits"] == "yes"]
    typer.echo()
    if best:
        typer.echo(_("The largest that fits well: sage models pull {source}").format(source=best[-1]))
    typer.echo(
        _("The table is of {date}. MEMORY is for two requests at a time with 4096 tokens each.").format(date=AS_OF)
    )
    typer.echo(_("Without a graphics card, a model of half the size answers about twice as fast."))


def fits(model: SmallModel, room: int | None) -> str:
    """``yes``, ``tight`` (little is left for anything else), ``no``, or ``?``. ``room`` is in bytes; ``None`` means
    unknown."""
    if room is None:
        return "?"
    if model.memory <= _COMFORTABLE * room:
        return N_("yes")
    return N_("tight") if model.memory <= room else N_("no")


def _table(rows: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for row in rows:
        sizes = size_text(row["size"]), size_text(row["memory"])
        licence = re.split(r"[ -]", row["licence"])[0]  # a table of 80 columns keeps each source whole, to be copied
        yield row["source"], *sizes, _(row["fits"]), _(row["languages"]), licence
