"""Tests of `lqs.copying`: what cannot be copied is refused, with the names that one has to look at."""

import keras
import pytest
from keras import ops

from lqs.conversion import quantize

L = keras.layers


@keras.saving.register_keras_serializable("tests.copying")
class Tied(L.Layer):
    """Computes with the kernel of another layer, which it is given."""

    def __init__(self, partner, **kwargs):
        super().__init__(**kwargs)
        self.partner = partner

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.partner.kernel))

    def get_config(self):
        return {**super().get_config(), "partner": keras.saving.serialize_keras_object(self.partner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("partner")), **config)


def test_weights_tied_by_reference_are_refused_by_the_names_of_both_layers():
    inputs, encoder = keras.Input((6,)), L.Dense(3, use_bias=False, name="encoder")
    model = keras.Model(inputs, Tied(encoder, name="decoder")(encoder(inputs)))
    with pytest.raises(ValueError, match="must not share weights .* by reference.* 'encoder' and 'decoder' share"):
        quantize(model)


class Patches(L.Dense):
    """As `ViTPatchingAndEmbedding` of KerasHub: its configuration has what its constructor does not take."""

    def get_config(self):
        return {**super().get_config(), "num_patches": 4}


def test_configuration_with_another_argument_names_it():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="constructor of `Patches` does not take .*'patches' [(].{,150}'num_patches'"):
        quantize(keras.Model(inputs, Patches(3)(inputs)))


def test_model_of_such_layers_is_copied_by_its_own_configuration():
    class Own(keras.Model):
        def __init__(self, units=3, **kwargs):
            inputs = keras.Input((4,))
            super().__init__(inputs, Patches(units)(inputs), **kwargs)
            self.units = units

        def get_config(self):
            return {"units": self.units}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    assert isinstance(quantize(Own()), Own)
