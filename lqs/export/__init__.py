"""Deployment: a quantized model as an ONNX or LiteRT file that holds its integers and learned scales.

Both formats have an operator that maps integers to floats,

    P_r = P_q * s        `DequantizeLinear` in ONNX, `DEQUANTIZE` in LiteRT; zero point 0

so the file holds `P_q` in the smallest integer type that fits and `s` in float32, and the network computes with
the parameters that it was trained with. Keras's own exporters write the network with these parameters as inputs of the
graph, so that they are not folded into other constants; then integers, scales and the operator take the place of each
input. The graph itself takes a kilobyte to tens of them: a small network's file is larger than its float parameters.

| type    | integers     | ONNX                   | LiteRT         |
|---------|--------------|------------------------|----------------|
| `int2`  | -2…1         | opset 25, if asked for | if asked for   |
| `int4`  | -8…7         | opset 21               | yes            |
| `int8`  | -128…127     | yes                    | yes            |
| `int16` | -32768…32767 | opset 21               | one scale only |

Neither format carries scales that vary along two axes or more, integers beyond int16, or integers that stand for the
levels of a codebook (`lqs.methods.codebook`): those parameters are left in float. Neither carries an entropy code.
"""

from lqs.export.litert import export_litert as export_litert
from lqs.export.onnx import export_onnx as export_onnx
from lqs.export.parameters import BITS as BITS
from lqs.export.parameters import packed as packed
from lqs.export.parameters import smallest_type as smallest_type
