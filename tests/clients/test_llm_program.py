"""The program ``llm``: an answer, a stream, and a tool that runs on its side."""

from __future__ import annotations

from collections.abc import Callable

from clients.conftest import Asked, Program
from clients.scripted_model import DONE, ScriptedModel

MODELS = """\
- model_id: bench
  model_name: bench
  api_base: {base_url}
  api_key_name: sage
  supports_tools: true
"""


def test_llm_calls_a_tool(asked: Asked, program: Callable[[str], Program]) -> None:
    model = asked.use(ScriptedModel(lambda names: ("llm_version", {})))
    llm = program("llm")
    (llm.home / "extra-openai-models.yaml").write_text(MODELS.format(base_url=asked.base_url))
    variables = {"LLM_USER_PATH": str(llm.home), "LLM_SAGE_KEY": asked.gateway.key}
    said = llm.run("-m", "bench", "--key", asked.gateway.key, "-T", "llm_version", "Which version is it?", **variables)
    assert DONE in said
    assert model.offered == ["llm_version"]
    assert model.results == [llm.run("--version").split()[-1]]
