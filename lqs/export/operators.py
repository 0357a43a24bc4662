"""Operators of TensorFlow that tf2onnx has none for, said in operators of ONNX."""

import numpy as np


def register():
    """Register them with tf2onnx."""
    from tf2onnx.handler import tf_op

    tf_op("Erfc")(_Erfc)
    tf_op("StatelessRandomNormalV2", onnx_op="RandomNormalLike")(_Random)
    tf_op("StatelessRandomUniformV2", onnx_op="RandomUniformLike")(_Random)


class _Erfc:
    """`erfc(x) = 1 - erf(x)`, in the exact GELU."""

    @classmethod
    def version_9(cls, graph, node, **kwargs):
        erf = graph.make_node("Erf", node.input)
        one = graph.make_const(f"{node.name}/one", np.ones((), "float32"))
        graph.remove_node(node.name)
        graph.make_node("Sub", [one.output[0], erf.output[0]], name=node.name, outputs=node.output)


class _Random:
    """Random numbers of a shape, the first input: without the seed, of which the others are made."""

    @classmethod
    def version_9(cls, graph, node, **kwargs):
        shape = graph.make_node("Cast", [node.input[0]], attr={"to": 7})  # int64
        zeros = graph.make_node("ConstantOfShape", shape.output)
        types, shapes = node.output_dtypes, node.output_shapes
        graph.remove_node(node.name)
        graph.make_node(node.type, zeros.output, name=node.name, outputs=node.output, dtypes=types, shapes=shapes)
