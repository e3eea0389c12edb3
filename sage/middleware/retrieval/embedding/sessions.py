"""Models on onnxruntime, each on the thread of its caller."""

from __future__ import annotations

from typing import Any


def open_session(onnxruntime: Any, model: bytes | str) -> Any:
    """A session of the model, or of the file at that path. ``onnxruntime`` is the module; the caller imports it, and
    knows which extra brings it."""
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # only errors
    options.enable_mem_pattern = False  # one for each shape of a batch; without them a third less memory, and no slower
    return onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],  # with it, e5 takes a third more time and MiniLM a twentieth
    )
