"""A model of Triton's python backend: `lowbit repository` puts this file beside each `model.lowbit`.

Triton's Python finds lowbit, NumPy and safetensors where the parameter `python_path` of `config.pbtxt` says.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

FILE = "model.lowbit"


class TritonPythonModel:
    """What Triton makes one of in each process of `instance_group`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the file.

        Args:
            args: What Triton says of the model: its directory, its version, its config as JSON.
        """
        config = json.loads(args["model_config"])
        given = {key: value["string_value"] for key, value in config["parameters"].items()}
        sys.path += [path for path in given["python_path"].split(os.pathsep) if path not in sys.path]
        import lowbit

        self.refused: type[Exception] = lowbit.LowbitError
        file = Path(args["model_repository"], args["model_version"], FILE)
        self.predict = lowbit.Predictor(file, threads=int(given["threads"]))
        self.inputs, self.outputs = self.predict.types()  # loads it

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, each by itself.

        Args:
            requests: Triton's.

        Returns:
            A response for each.
        """
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        batch = {
            name: _scalar(triton.get_input_tensor_by_name(request, name).as_numpy(), tensor.shape)
            for name, tensor in self.inputs.items()
        }
        try:
            found = self.predict(batch)
        except self.refused as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error), triton.TritonError.INVALID_ARG))
        wanted = [name for name in self.outputs if name in request.requested_output_names()]
        return triton.InferenceResponse([triton.Tensor(name, np.atleast_1d(found[name])) for name in wanted])


def _scalar(array: Any, shape: Sequence[Any]) -> Any:
    """Triton has no arrays without axes: they come and go as arrays of one element."""
    return array if shape else array.reshape(())
