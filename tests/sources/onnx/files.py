"""Small ONNX models for tests, and what onnxruntime makes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Case:
    """One operator between the input and the output.

    Attributes:
        op: Operator.
        shape: Of the input; the first size is one, or "n" for a batch left open.
        inputs: Beside the input "x": arrays; "x" says where it stands.
        attributes: Of the operator.
        opset: Of the file.
        outputs: How many outputs; the first is the model's.
    """

    op: str
    shape: tuple[int | str, ...]
    inputs: tuple[Any, ...] = ("x",)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1

    def model(self) -> onnx.ModelProto:
        """Return the file."""
        names, initializers = [], []
        for place, item in enumerate(self.inputs):
            if isinstance(item, str):
                names.append(item)
                continue
            names.append(f"c{place}")
            initializers.append(numpy_helper.from_array(np.asarray(item), f"c{place}"))
        outputs = ["y", *(f"y{k}" for k in range(1, self.outputs))]
        node = helper.make_node(self.op, names, outputs, **self.attributes)
        return make_model([node], self.shape, initializers, self.opset)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    initializers: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Return a model from "x" to "y"."""
    entry = helper.make_tensor_value_info("x", kind, shape)
    result = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph(list(nodes), "g", [entry], [result], list(initializers))
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def save(model: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    """Write a model."""
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def truth(path: Path, rows: np.ndarray, optimised: bool = True) -> np.ndarray:
    """Return what onnxruntime makes of every row alone, [N, ...]."""
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in entry.shape]
    first = session.get_outputs()[0].name
    return np.stack([session.run([first], {entry.name: row.reshape(shape)})[0] for row in rows])
