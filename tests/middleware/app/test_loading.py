"""What modules cost that are imported under ``quick_loading``."""

from __future__ import annotations

import gc
import warnings

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from sage.middleware.app.loading import quick_loading


def test_models_made_within_are_built_when_they_are_first_used() -> None:
    try:
        with quick_loading():
            assert not gc.isenabled()

            class Late(BaseModel):
                count: int

            class Later(Late):
                lates: list[Late]
    finally:
        gc.unfreeze()

    class Usual(BaseModel):
        count: int

    assert gc.isenabled()
    assert (Late.__pydantic_complete__, Later.__pydantic_complete__) == (False, False)
    assert Usual.__pydantic_complete__
    assert "defer_build" not in BaseModel.model_config
    assert Later.model_validate({"count": "1", "lates": [{"count": 2}]}).lates == [Late(count=2)]
    assert Later.__pydantic_complete__
    with pytest.raises(ValidationError, match="count"):
        Late.model_validate({"count": "many"})


def test_what_is_made_of_such_a_model_is_whole() -> None:
    """As the framework makes fields of bodies, in a block that hides pydantic's warnings."""
    try:
        with quick_loading():

            class Body(BaseModel):
                count: int
    finally:
        gc.unfreeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = TypeAdapter(Body)
    assert adapter.pydantic_complete
    assert adapter.validate_python({"count": 3}) == Body(count=3)


def test_a_module_that_builds_its_models_at_once_does_it_later() -> None:
    """As the framework's models of OpenAPI; one that is used meanwhile is built."""
    try:
        with quick_loading():

            class Node(BaseModel):
                children: list[Node] = []

            class Used(BaseModel):
                count: int

            Node.model_rebuild()
            Used.model_rebuild()
            used = Used(count=1)
    finally:
        gc.unfreeze()
    assert used.count == 1
    assert (Node.__pydantic_complete__, Used.__pydantic_complete__) == (False, True)
    assert Node.model_rebuild()
    assert Node.model_validate({"children": [{}]}).children == [Node()]


def test_an_error_while_loading_leaves_everything_as_it_was() -> None:
    try:
        with pytest.raises(ImportError), quick_loading():
            raise ImportError
    finally:
        gc.unfreeze()
    assert gc.isenabled()
    assert "defer_build" not in BaseModel.model_config
