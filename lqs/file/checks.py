"""What a model must be for its file and its sizes to be right."""

import tempfile
from pathlib import Path

import keras

from lqs.inspection import check_values


def check_savable(model):
    """Raise unless a model can be stored, and what is stored is what it computes with.

    Raises:
        ValueError: if `model` is not a built Keras model, a variable is not finite, a scale is not a positive number,
            an integer `P_q` is beyond int32, or a layer has learned a vocabulary.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"Argument `model` must be a built Keras model. Received: model={model!r}")
    check_values(model)
    _check_no_assets(model)


def _check_no_assets(model):
    """Raise if a layer has state that is neither in its variables nor in its configuration: a learned vocabulary."""
    for layer in model._flatten_layers():
        if not hasattr(layer, "save_assets"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            if any(Path(folder).iterdir()):
                raise ValueError(
                    f"Layer {layer.name!r} has learned a vocabulary, which a .lqs file does not keep: "
                    "give it to the layer's constructor, or leave the layer out of the model."
                )
