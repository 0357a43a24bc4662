"""Labels, colours and markers: a method has the same in every figure, and no two methods have both alike."""

import matplotlib

from study.paths import STYLE

METHOD_LABELS = {
    "float": "float",
    "nested": "nested layer",
    "max_bin": "MaxBin",
    "inverse": "Inverse",
    "difference": "Difference",
    "code_length": "CodeLength",
    # published methods, in the order of notebook 17
    "min_max": "min–max",
    "lsq": "LSQ",
    "dorefa": "DoReFa-Net",
    "stochastic": "stochastic rounding",
    "quant_noise": "Quant-Noise",
    "binary_connect": "BinaryConnect",
    "xnor": "XNOR-Net",
    "twn": "TWN",
    "ttq": "TTQ",
    "sinreq": "SinReQ",
    "msqe": "MSQE",
    "deep_hoyer": "DeepHoyer",
    "tang": "Tang et al.",
    "waveq": "WaveQ",
    "lq_nets": "LQ-Nets",
    "qil": "QIL",
    "deep_compression": "Deep Compression",
    # networks of other libraries
    "HGQ2": "HGQ2",
    "HGQ2 weights alone": "HGQ2, weights alone",
    "Keras int4": "Keras int4",
    "Keras int8": "Keras int8",
    # the thesis's rule with one thing changed
    "votes_constant": "constant votes",
    "votes_shuffled": "shuffled votes",
    "votes_inverted": "inverted votes",
    "votes_live": "votes of live elements",
    "votes_without_range": "votes without range",
    "votes_without_tanh": "votes without tanh",
    "votes_epsilon": "votes with a larger epsilon",
    # more published methods, here at the end so that the others keep their looks
    "krishnamoorthi": "min–max per channel",
    "value_aware": "value-aware",
    "rdo_q": "RDO-Q",
    "delta_loss": "Δloss",
    "aqe": "AQE",
    "qnn": "QNN",
    "lab": "LAB",
    "ott": "Ott et al.",
    "sq": "SQ",
    "gong": "product VQ",
    "polino": "Polino et al.",
    "tfc": "TensorFlow Compression",
    # our rule beside the thesis's, in notebook 18
    "fisher_information": "Fisher information",
}
SAME_AS = {"votes_ratio": "nested"}  # the thesis's rule, among those that change it
DATASET_LABELS = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10", "imagenette": "Imagenette"}
MARKERS = "o^vDsPX"
MORE_MARKERS = "<>ph8*d"  # once all colors have had all markers


def palette():
    """Return the colours of the style's cycle, black first; the last one, a yellow, is too pale for lines."""
    return matplotlib.rc_params_from_file(STYLE)["axes.prop_cycle"].by_key()["color"][:-1]


def method_style(method):
    """Return colour, marker and label of a method, as `matplotlib` takes them; float has no marker.

    Example:

    >>> method_style("max_bin")
    {'color': '#D55E00', 'marker': '^', 'label': 'MaxBin'}
    """
    name = SAME_AS.get(method, method)
    black, *colors = palette()
    number = list(METHOD_LABELS).index(name) - 1
    if number < 0:
        return {"color": black, "marker": "", "label": METHOD_LABELS[name]}
    markers = MARKERS if number < len(MARKERS) * len(colors) else MORE_MARKERS
    marker = markers[number % len(markers)]
    return {"color": colors[number % len(colors)], "marker": marker, "label": METHOD_LABELS[name]}
