"""Learned weight quantization for Keras: nested quantization layers with trainable scale factors."""

from lqs.codebooks import Codebook, DeepCompression, LQNets, TrainedTernary
from lqs.layers import QuantConv2D, QuantDense, QuantizedLayer, QuantizedModel, QuantizedParameters
from lqs.nested import MIN_SCALE, NestedQuantization
from lqs.penalties import (
    BinaryPenalty,
    CodeLengthPenalty,
    DifferencePenalty,
    HoyerPenalty,
    InversePenalty,
    MaxBinPenalty,
    MSQEPenalty,
    Penalty,
    SinReQPenalty,
    WaveQPenalty,
)
from lqs.reader import FileFormatError
from lqs.rounding import (
    QIL,
    BinaryConnect,
    DoReFa,
    QuantNoise,
    Rounding,
    StochasticRounding,
    TernaryWeights,
    XnorNet,
)
from lqs.rules import Frozen, GradientRatio, Measured, Rule, StraightThrough
from lqs.saving import load, save
from lqs.sizes import size_report
from lqs.statistics import summary
from lqs.target import TargetSize
from lqs.wrapping import dequantize, quantize

__version__ = "0.1.0"
