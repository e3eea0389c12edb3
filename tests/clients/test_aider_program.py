"""``aider-chat``: it edits a file. Its tool is a block in the answer's text, which it applies and commits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from clients.conftest import Asked, Program
from clients.scripted_model import ScriptedModel

EDIT = """\
The greeting changes as you asked.

greeting.py
```python
<<<<<<< SEARCH
print("hello")
=======
print("good morning")
>>>>>>> REPLACE
```
"""


def test_aider_edits_a_file(asked: Asked, program: Callable[[str], Program]) -> None:
    asked.use(ScriptedModel(lambda names: None, text=EDIT))
    aider = program("aider")
    target = aider.project / "greeting.py"
    target.write_text('print("hello")\n')
    _know_prices(aider)
    subprocess.run(["git", "init", "-q", "."], cwd=aider.project, check=True)
    aider.run(
        *("--model", "openai/bench", "--edit-format", "diff", "--yes-always", "--no-auto-commits", "--no-pretty"),
        *(
            "--no-show-model-warnings",
            "--no-check-update",
            "--analytics-disable",
            "--map-tokens",
            "0",
            "--no-gitignore",
        ),
        *("--message", "Say good morning instead.", "greeting.py"),
        OPENAI_API_BASE=asked.base_url,
        OPENAI_API_KEY=asked.gateway.key,
        LITELLM_LOCAL_MODEL_COST_MAP="True",
    )
    assert target.read_text() == 'print("good morning")\n'
    (request,) = [each for each in asked.upstream.requests if "Say good morning" in str(each.body)][:1]
    assert request.body["model"] == "upstream-model"


def _know_prices(aider: Program) -> None:
    """Gives it the table of models that it else fetches from elsewhere once a day."""
    caches = aider.home / ".aider/caches"
    caches.mkdir(parents=True)
    known = {"openai/bench": {"max_tokens": 4000, "max_input_tokens": 100000, "litellm_provider": "openai"}}
    (caches / "model_prices_and_context_window.json").write_text(json.dumps(known))
