"""Models on onnxruntime, each on the thread of its caller."""

from __future__ import annotations

from typing import Any

from sage.errors import MissingExtra


def open_session(model: bytes, embedder: str, extra: str) -> Any:
    """A session of the model. Raises :class:`MissingExtra`, which names the ``embedder`` and its ``extra``."""
    try:
        import onnxruntime
    except ImportError as exc:
        raise MissingExtra(f"the embedder '{embedder}'", extra) from exc
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # only errors
    options.enable_mem_pattern = False  # one for each shape of a batch; without them a third less memory, and no slower
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
