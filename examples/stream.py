"""The gateway as a Python object: the local model answers piece by piece, without a server, a key or a configuration.

Run it with what `make serve` installed: .venv/bin/python examples/stream.py
"""

from sage.middleware.llm import LLMService

with LLMService() as service:
    for piece in service.stream("gemma-3-270m", "What is the capital of France?", temperature=0):
        print(piece, end="", flush=True)
    print()
