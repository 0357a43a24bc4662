"""Data-parallel training: on two devices it goes as on one."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

SCRIPT = Path(__file__).parents[1] / "two_devices.py"


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras distributes TensorFlow and JAX")
def test_two_devices_train_to_the_integers_of_one():
    """In a process of its own, since devices are made when a backend starts."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    backend = {"KERAS_BACKEND": keras.backend.backend(), "XLA_FLAGS": flags}
    process = subprocess.run([sys.executable, SCRIPT], env={**os.environ, **backend}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
