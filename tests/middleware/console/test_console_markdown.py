"""Markdown that grows on the page: drawn piece by piece, it looks at every step as if it were drawn whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Page
from console_browser import visit
from running_gateway import Running

pytestmark = pytest.mark.slow

TEXTS = [
    "# Whales\n\nThey *swim*.\nAnd **dive**\n\n- one\n- two\n\n  still two\n- three\n\n"
    "The end\n===\n\n> said\nso\n\n---\n\nlast",
    "before\n```python\nprint('a')\n\n\n# no heading\n```\nafter `code` and more\n\n"
    "~~~\n```\ninside\n~~~\n\n```\nnever closed\n- a\n",
    "| a | b |\n|---|--:|\n| 1 | `2` |\n| <b>3</b> | 4 |\n\n1. x\n   1. y\n\n   z\n2. w\n\n"
    "- [ ] open\n- [x] closed\n\ntext",
    "<div>\n\n<script>document.title = 'caught'</script>\n\n&amp; &lt;b&gt; \\*no\\*\r\n\r\n"
    "next\tline\n\n    four spaces\n\n    again\n",
    "长文本。**粗体**, `代码`。\n\n1. 第一\n2. 第二\n\n\\u202eright 🐋 https://example.com/a_b_c?x=1 www.example.com\n",
]
STEPS = """(async () => {
    const {Drawing} = await import('/console/components/markdown.js')
    const {DOMPurify} = await (await import('/console/core/script.js')).script('purify')
    const wrong = []
    for (const text of TEXTS) {
        const grown = document.createElement('div')
        const drawing = new Drawing(grown, DOMPurify)
        for (let end = 1; end <= text.length; end += SIZE) {
            drawing.show(text.slice(0, end), false)
            const whole = document.createElement('div')
            whole.append(drawing.drawn(text.slice(0, end)))
            const [a, b] = [grown, whole].map(each => each.innerHTML.replace(/\\n+(?=<|$)/g, ''))
            if (a !== b) wrong.push([text.slice(0, end), a, b])
        }
        drawing.show(text, true)
        const whole = document.createElement('div')
        new Drawing(whole, DOMPurify).show(text, true)
        if (grown.innerHTML !== whole.innerHTML) wrong.push([text, grown.innerHTML, whole.innerHTML])
    }
    return JSON.stringify(wrong.slice(0, 3))
})()"""


def test_a_growing_text_looks_as_if_drawn_whole(module_gateway: Callable[..., Running], tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        for size in (1, 7):
            steps = STEPS.replace("TEXTS", json.dumps(TEXTS)).replace("SIZE", str(size))
            assert json.loads(await page.evaluate(steps)) == []
        assert await page.evaluate("document.title") == "Overview · SAGE"

    visit(module_gateway(), tmp_path / "profile", act)
