"""One session of onnxruntime on the CPU."""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alan.errors import CheckpointError, ParameterError
from alan.extras import third_party

#: Input of an exported program, and its outputs in their order.
INPUT, OUTPUTS = "frames", ("pooled", "cls", "tokens", "logits")


class OnnxSession:
    """A program of :func:`alan.export.write_program` in onnxruntime, on the CPU with as many threads as torch.

    Args:
        path: The ``.onnx`` file.

    Attributes:
        size: Side in pixels of the frames that the program takes.

    Raises:
        CheckpointError: The file is missing, damaged, or no program of this package.
        ConfigError: The package onnxruntime is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        runtime = third_party("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each kind of damage, without a common base
            raise CheckpointError(f"{path}: missing, or no ONNX program: export the model again") from error
        (given,), found = self._session.get_inputs(), [output.name for output in self._session.get_outputs()]
        if given.name != INPUT or found != list(OUTPUTS):
            raise CheckpointError(f"{path}: no program of alan export: it gives {', '.join(found)}")
        self.size = int(given.shape[1])

    def __call__(self, frames: Tensor | NDArray[np.uint8], *names: str) -> list[Tensor]:
        """Compute outputs of a batch.

        Args:
            frames: (B, size, size) uint8.
            *names: Some of ``pooled``, ``cls``, ``tokens``, ``logits``.

        Returns:
            float32 tensors on the CPU, one per name.

        Raises:
            ParameterError: The frames have another shape or dtype.
        """
        batch = np.ascontiguousarray(torch.as_tensor(frames).cpu().numpy())
        if batch.dtype != np.uint8 or batch.shape[1:] != (self.size, self.size):
            raise ParameterError(
                f"frames are {batch.dtype} {batch.shape}: the program takes uint8 (B, {self.size}, {self.size})"
            )
        return [torch.from_numpy(output) for output in self._session.run(list(names), {INPUT: batch})]
