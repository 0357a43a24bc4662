"""Learned weight quantization for Keras: nested quantization layers with trainable scale factors."""

from lqs.control import TargetSize
from lqs.conversion import dequantize, quantize
from lqs.file.reader import FileFormatError
from lqs.file.saving import load, save
from lqs.file.sizes import size_report
from lqs.inspection import summary
from lqs.layers import QuantConv2D, QuantDense, QuantizedParameters
from lqs.penalties import CodeLengthPenalty, DifferencePenalty, InversePenalty, MaxBinPenalty, Penalty
from lqs.quantizer import NestedQuantization
from lqs.rounding import Rounding
from lqs.rules import Frozen, GradientRatio, Measured, Rule, StraightThrough
from lqs.scales import MIN_SCALE

__version__ = "0.1.0"
