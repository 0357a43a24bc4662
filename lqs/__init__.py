"""Learned weight quantization for Keras: nested quantization layers with trainable scale factors."""

from lqs.codebooks import Codebook, DeepCompression, LQNets, TrainedTernary
from lqs.control import TargetSize
from lqs.conversion import dequantize, quantize
from lqs.file.reader import FileFormatError
from lqs.file.saving import load, save
from lqs.file.sizes import size_report
from lqs.inspection import summary
from lqs.layers import QuantConv2D, QuantDense, QuantizedLayer, QuantizedModel, QuantizedParameters
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
from lqs.quantizer import MIN_SCALE, NestedQuantization
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

__version__ = "0.1.0"
