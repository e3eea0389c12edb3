"""How the server's modules are loaded: nothing is done at the start that nobody may ever need."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel


@contextmanager
def quick_loading() -> Iterator[None]:
    """Modules that are imported within cost no more than they must.

    The validators of pydantic models, the framework's among them, are made when a model is first used, also where a
    module asks for them at once (``model_rebuild``). The collector of
    cycles rests: code makes hardly any, and looking for them over and over takes a tenth of the time. What was loaded
    lives as long as the process, and the collector does not look at it later either.
    """
    usual, rebuild = BaseModel.model_config, BaseModel.__dict__["model_rebuild"]
    BaseModel.model_config = {**usual, "defer_build": True}
    setattr(BaseModel, "model_rebuild", _when_used(rebuild))  # noqa: B010
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        BaseModel.model_config = usual
        setattr(BaseModel, "model_rebuild", rebuild)  # noqa: B010
        for model in _below(BaseModel):
            # What the framework makes of a model later, it makes at once: otherwise that warns, once it is used, of
            # what the framework keeps pydantic from warning of.
            model.model_config.pop("defer_build", None)


def _when_used(rebuild: Any) -> Any:
    """``model_rebuild`` of pydantic, which does nothing where a module calls it without any option. pydantic itself
    calls it with some when the model is first used."""

    def model_rebuild(kind: Any, /, **options: Any) -> bool | None:
        if not options:
            return None
        options["_parent_namespace_depth"] = options.get("_parent_namespace_depth", 2) + 1  # this function
        made: bool | None = rebuild.__get__(None, kind)(**options)
        return made

    return classmethod(model_rebuild)


def _below(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in kind.__subclasses__():
        yield model
        yield from _below(model)
