"""docs/surfaces.md and its Chinese twin say what the tests of surfaces prove."""

from __future__ import annotations

import pytest
import surface_losses as losses


def test_the_pages_say_what_the_tables_hold() -> None:
    for page, text in losses.pages().items():
        assert page.read_text("utf-8") == text, "run: python tests/surface_losses.py --write"
    english = losses.PAGES[0].read_text("utf-8")
    for loss in losses.LOSSES:
        assert f"| {loss.what} | {loss.becomes} |" in english


def test_a_table_stands_between_its_marks() -> None:
    page = f"a\n{losses.BEGIN}\nold\n{losses.END}\nb"
    assert losses.replaced(page, "new") == f"a\n{losses.BEGIN}\nnew\n{losses.END}\nb"
    with pytest.raises(ValueError, match="lacks the marks"):
        losses.replaced(page, "1", "2")
