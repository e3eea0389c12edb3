"""A mark that names an unknown vendor or feature fails the collection, wherever it stands."""

from __future__ import annotations

import pytest
from features import check_items


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    check_items(items)
