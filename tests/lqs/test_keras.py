"""The private names of Keras in `lqs._keras`: each is still there, and does what lqs needs of it."""

import ast
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest

SOURCE = Path(__file__).resolve().parents[2] / "lqs/_keras.py"
IMPORTS = [node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.ImportFrom)]
NAMES = [(node.module, alias.name) for node in IMPORTS for alias in node.names]


@pytest.fixture(scope="module")
def private():
    return importlib.import_module("lqs._keras")


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[name for _, name in NAMES])
def test_name_is_where_it_was(module, name):
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        pytest.fail(
            f"Keras {keras.__version__} has no `{name}` in `{module}`: find its new place for `lqs/_keras.py` ({error})"
        )


def test_autocast_scope_of_none_reads_a_variable_in_its_own_dtype(private):
    layer = keras.layers.Dense(2, dtype="mixed_float16")
    layer.build((None, 3))
    with private.AutocastScope("float16"):
        assert keras.backend.standardize_dtype(keras.ops.convert_to_tensor(layer.kernel).dtype) == "float16"
        with private.AutocastScope(None):
            assert keras.backend.standardize_dtype(keras.ops.convert_to_tensor(layer.kernel).dtype) == "float32"


def test_functional_is_the_class_of_functional_models_alone(private):
    inputs = keras.Input((3,))
    assert isinstance(keras.Model(inputs, keras.layers.Dense(2)(inputs)), private.Functional)
    assert not isinstance(keras.Sequential([inputs, keras.layers.Dense(2)]), private.Functional)


def test_input_signature_has_the_shape_and_dtype_of_each_input(private):
    inputs = keras.Input((3,), name="pixels")
    (found,) = private.get_input_signature(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
    assert (tuple(found.shape), found.dtype) == ((None, 3), "float32")


def test_stateless_scope_is_the_innermost_in_force_or_none(private):
    assert private.get_stateless_scope() is None
    with keras.StatelessScope(), keras.StatelessScope() as inner:
        assert private.get_stateless_scope() is inner
    assert private.get_stateless_scope() is None


def test_a_stateless_scope_keeps_its_state_mapping(private):
    variable = keras.Variable(np.zeros(2, "float32"))
    with keras.StatelessScope() as scope:
        variable.assign(np.ones(2, "float32"))
        assert private.get_stateless_scope().get_current_value(variable) is scope.get_current_value(variable)
    np.testing.assert_array_equal(variable, [0, 0])


def test_global_state_lists_the_variables_that_await_a_value(private):
    name = "uninitialized_variables"
    before = list(private.global_state.get_global_attribute(name, []))
    with keras.StatelessScope():
        variable = keras.Variable(lambda shape, dtype: keras.ops.zeros(shape, dtype), shape=(2,))
        assert any(found is variable for found in private.global_state.get_global_attribute(name))
        private.global_state.set_global_attribute(name, before)
    assert private.global_state.get_global_attribute(name) == before
