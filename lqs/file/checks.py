"""What a model must be for its file and its sizes to be right."""

import keras

from lqs.inspection import check_values


def check_savable(model):
    """Raise unless a model can be stored, and what is stored is what it computes with.

    Raises:
        ValueError: if `model` is not a built Keras model, a variable is not finite, a scale is not a positive number,
            or an integer `P_q` is beyond int32.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"Argument `model` must be a built Keras model. Received: model={model!r}")
    check_values(model)
