"""8-bit weights in an ONNX graph: blocks of 16 numbers of a row share one scale, much as in GGUF's Q8_0.

`OnnxRuntimeQuantizer` of transformers, dynamic int8, is not used, for three reasons that were measured on our model of
1.5M parameters. It has one scale for all activations of a prompt, so that a token changes what stands before it: 1.9 %
of the negative log-likelihood and 5 % of the likeliest tokens are lost (here 0.3 % and 1.7 %). It passes over a tied
head without a word. And it is slower than fp32 where matrices are small. `MatMulNBits` with accuracy level 4 rounds
activations in blocks too. An embedding table is read in the same blocks, and a tied one is the head's own bytes.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Weight = NDArray[np.float32]

BLOCK = 16  # 32, as in GGUF, is 11 % smaller and loses half as much again in mean KL
ZERO = 128  # what 0 is stored as: MatMulNBits' own default for 8 bits
MICROSOFT = "com.microsoft"
DATA = "model.onnx.data"  # the weights of all graphs of a directory
SMALL = 1024  # bytes; smaller constants stay inside the graph
ALIGNED = 64

TURNED: tuple[dict[str, Any], ...] = ({"transB": 1}, {"transB": 1, "alpha": 1.0})  # of a FusedMatMul


class Blocks(NamedTuple):
    """A matrix [rows, columns], the last block of a row filled up with zeros."""

    values: "NDArray[np.uint8]"  # [rows, blocks, 16], each 128 + round(weight / scale)
    scales: "NDArray[np.float32]"  # [rows, blocks]


class Quantised(NamedTuple):
    """How many numbers became int8 in a graph, and the float matrices that did not."""

    multiplied: int
    looked_up: int
    tensors: int
    left: tuple[str, ...]


def to_blocks(weight: "Weight") -> Blocks:
    """Round to nearest: |weight - scale * (value - 128)| <= scale / 2, with scale = largest of the block / 127."""
    rows, columns = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -columns % BLOCK))).reshape(rows, -1, BLOCK)
    scales = (np.abs(padded).max(axis=2) / 127).astype(np.float32)
    divisors = np.where(scales > 0, scales, 1)[:, :, None]
    return Blocks((np.rint(padded / divisors) + ZERO).astype(np.uint8), scales)


def quantise(model: ir.Model) -> Quantised:
    """Replace, in place, every product with a constant matrix and every look-up in one."""
    numbers: dict[str, int] = {}  # which matrix of the file a content is
    multiplied = looked_up = 0
    for node in list(model.graph):
        weight = _constant_matrix(node)
        if weight is None:
            continue
        key = hashlib.sha256(repr(weight.shape).encode() + weight.tobytes()).hexdigest()
        name = f"int8_{numbers.setdefault(key, len(numbers))}"
        if node.op_type == "Gather":
            looked_up += weight.size
            _replace_gather(model.graph, node, weight, name)
        else:
            multiplied += weight.size
            _replace_product(model.graph, node, weight, name)
    _drop_unused(model.graph)
    model.graph.opset_imports[MICROSOFT] = 1
    held = model.graph.initializers.items()
    left = [name for name, value in held if not name.startswith("int8_") and _matrix(value) is not None]
    return Quantised(multiplied, looked_up, len(numbers), tuple(left))


def _constant_matrix(node: ir.Node) -> "Weight | None":
    """The weight [rows, columns] that a node looks up rows of, or gives the product with the transpose of."""
    if node.op_type == "Gather":
        return _matrix(node.inputs[0]) if node.attributes.get_int("axis", 0) == 0 else None
    if node.op_type == "MatMul":
        weight = _matrix(node.inputs[1])
        if weight is not None:
            return np.ascontiguousarray(weight.T)
        turned = node.inputs[1].producer() if node.inputs[1] is not None else None
        # The exporter folds the transpose of a small matrix only; a large one would silently stay as it is.
        return _matrix(turned.inputs[0]) if turned is not None and turned.op_type == "Transpose" else None
    if node.op_type == "FusedMatMul" and {key: each.value for key, each in node.attributes.items()} in TURNED:
        return _matrix(node.inputs[1])
    return None


def _matrix(value: ir.Value | None) -> "Weight | None":
    """A matrix of floats that the graph holds, or None."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    array = value.const_value.numpy()
    return array if array.dtype == np.float32 and array.ndim == 2 and min(array.shape) > 1 else None


def _replace_product(graph: ir.Graph, node: ir.Node, weight: "Weight", name: str) -> None:
    blocks = to_blocks(weight)
    rows, columns = weight.shape
    made = ir.node(
        "MatMulNBits",
        [node.inputs[0], _constant(graph, name, blocks.values), _constant(graph, f"{name}_scale", blocks.scales)],
        {"K": columns, "N": rows, "bits": 8, "block_size": BLOCK, "accuracy_level": 4},
        domain=MICROSOFT,
    )
    _put(graph, node, [made])


def _replace_gather(graph: ir.Graph, node: ir.Node, weight: "Weight", name: str) -> None:
    """The same bytes as a product's, as a table: one operator takes three dimensions, the other two."""
    blocks = to_blocks(weight)
    rows, columns = weight.shape
    table = _constant(graph, f"{name}_table", blocks.values.reshape(rows, -1))
    made = [
        ir.node(
            "GatherBlockQuantized",
            [table, node.inputs[1], _constant(graph, f"{name}_scale", blocks.scales)],
            {"gather_axis": 0, "quantize_axis": 1, "block_size": BLOCK, "bits": 8},
            domain=MICROSOFT,
        )
    ]
    if columns % BLOCK:
        ends = [_constant(graph, f"{name}_{key}", np.array([at])) for key, at in (("from", 0), ("to", columns))]
        made.append(ir.node("Slice", [made[0].outputs[0], *ends, _constant(graph, "last_axis", np.array([-1]))]))
    _put(graph, node, made)


def _put(graph: ir.Graph, old: ir.Node, new: list[ir.Node]) -> None:
    before, after = old.outputs[0], new[-1].outputs[0]
    after.shape, after.type = before.shape, before.type
    name = before.name
    ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    graph.insert_before(old, new)
    graph.remove(old, safe=True)
    after.name = name


def _constant(graph: ir.Graph, name: str, array: "NDArray[Any]") -> ir.Value:
    if name not in graph.initializers:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[name]


def _drop_unused(graph: ir.Graph) -> None:
    """Transposes and weights that nothing reads any more."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def strip(model: ir.Model) -> None:
    """Drop the exporter's notes: stack traces with the paths of this machine, and a third of the graph's bytes."""
    for graph in model.graphs():
        values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
        for node in graph:
            values += node.outputs
            _forget(node)
        for item in (graph, *values, *(v.const_value for v in values if v.const_value is not None)):
            _forget(item)
    _forget(model)


def _forget(item: Any) -> None:
    item.doc_string = None
    item.metadata_props.clear()
    item.meta.clear()


def save(graphs: dict[str, ir.Model], folder: Path) -> None:
    """Write `NAME.onnx` for each graph, and their weights in one file, equal ones once."""
    placed: dict[bytes, int] = {}
    with (folder / DATA).open("wb") as file:
        for name, model in graphs.items():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                assert tensor is not None and value.name is not None
                if tensor.nbytes < SMALL:
                    continue
                content = tensor.tobytes()
                key = hashlib.sha256(content).digest()
                if key not in placed:
                    file.write(bytes(-file.tell() % ALIGNED))
                    placed[key] = file.tell()
                    file.write(content)
                value.const_value = ir.ExternalTensor(
                    DATA,
                    placed[key],
                    len(content),
                    tensor.dtype,
                    shape=ir.Shape(tensor.numpy().shape),
                    name=value.name,
                    base_dir=folder,
                )
            ir.save(model, folder / f"{name}.onnx")
