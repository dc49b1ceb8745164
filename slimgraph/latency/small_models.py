"""Small ONNX models of one operator, at any size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from slimgraph.labels import Shape

OPSET = 18
_IN, _OUT = "in", "out"


def one_operator(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Shape | None],
    output: Shape,
    constants: Mapping[str, onnx.TensorProto],
    opset: int = OPSET,
) -> tuple[bytes, dict[str, Any]]:
    """Build a model of an operator with what is fused to it.

    Args:
        nodes: Of the plain model, first to last; all but the first read the one before.
        inputs: Shapes of the first one's inputs; `None` for constants.
        output: Shape of what comes out of it.
        constants: Of the plain model, by name. Those along channels are drawn anew.
        opset: Of the plain model.

    Returns:
        The file's content, and random inputs by name.
    """
    first = _sized(nodes[0], inputs, output)
    generator = np.random.default_rng(0)
    made, feeds, names = [], {}, []
    given = [name for name in nodes[0].input if name]
    for index, (name, shape) in enumerate(zip(given, inputs, strict=True)):
        if shape is not None:
            feeds[f"{_IN}{index}"] = generator.standard_normal(shape, dtype=np.float32)
            names.append(f"{_IN}{index}")
        else:
            old = numpy_helper.to_array(constants[name]) if _small(constants[name]) else None
            wanted = _constant_shape(nodes[0], index, constants[name], inputs, output)
            made.append(_filled(name, old, wanted, constants[name], generator))
            names.append(name)
    first.ClearField("input")
    first.input.extend(names)
    chain = [first]
    for node in nodes[1:]:
        follower = onnx.NodeProto()
        follower.CopyFrom(node)
        made += [constants[name] for name in node.input if name in constants]
        chain.append(follower)
    chain[-1].output[0] = _OUT
    graph = helper.make_graph(
        chain,
        "operator",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n, x in feeds.items()],
        [helper.make_tensor_value_info(_OUT, TensorProto.FLOAT, None)],
        list({tensor.name: tensor for tensor in made}.values()),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(onnx.IR_VERSION, 10)
    )
    return model.SerializeToString(), feeds


def _small(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location != TensorProto.EXTERNAL and int(np.prod(tensor.dims)) <= 16


def _filled(
    name: str, old: Any, wanted: Shape, like: onnx.TensorProto, generator: np.random.Generator
) -> onnx.TensorProto:
    """Keep a small constant that fits, such as the bounds of a clip; else draw one."""
    if old is not None and old.shape == wanted:
        return numpy_helper.from_array(old, name)
    kind = helper.tensor_dtype_to_np_dtype(like.data_type)
    drawn = np.abs(generator.standard_normal(wanted)) * 0.1  # positive: it may be a variance
    return numpy_helper.from_array(drawn.astype(kind), name)


def _sized(node: onnx.NodeProto, inputs: Sequence[Shape | None], output: Shape) -> onnx.NodeProto:
    """Copy a node; the groups of a convolution follow its channels."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if node.op_type == "Conv" and inputs[0] is not None:
        for attribute in copy.attribute:
            if attribute.name == "group" and attribute.i > 1:
                attribute.i = _groups(attribute.i, inputs[0][1], output[1])
    return copy


def _groups(groups: int, read: int, made: int) -> int:
    """Return the number of groups at other sizes: at most what there was, and a divisor of both."""
    return next(n for n in range(min(groups, read, made), 0, -1) if read % n == 0 and made % n == 0)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _constant_shape(
    node: onnx.NodeProto,
    index: int,
    tensor: onnx.TensorProto,
    inputs: Sequence[Shape | None],
    output: Shape,
) -> Shape:
    """Return the shape that a constant has at these sizes."""
    old = tuple(tensor.dims)
    source = inputs[0]
    if node.op_type in ("Conv", "ConvTranspose") and source is not None:
        read, made = source[1], output[1]
        groups = _attribute(node, "group", 1)
        groups = _groups(groups, read, made) if groups > 1 else 1
        if index > 1:
            return (made,)
        pair = (made, read // groups) if node.op_type == "Conv" else (read, made // groups)
        return (*pair, *old[2:])
    if node.op_type in ("Gemm", "MatMul") and source is not None and index == 1:
        pair = (source[-1], output[-1])
        return (*old[:-2], *(reversed(pair) if _attribute(node, "transB", 0) else pair))
    if node.op_type == "BatchNormalization":
        return (output[1],)
    lead = len(output) - len(old)
    if lead < 0:
        return old
    return tuple(1 if o == 1 else n for o, n in zip(old, output[lead:], strict=True))
