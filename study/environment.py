"""The environment of a run: versions, device and commit, as its record names them."""

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess

import lqs
from study.paths import ROOT

# To be raised by a change after which a training step has other last bits. Records of the methods that it concerns are
# stale if they are of an earlier version, and are trained again. Those that name no version are of version 0.
RECORDS_VERSION = 7
# Version 1: elements that lie just on an outermost level have a gradient; a scale by the maximum puts one there.
# Version 2: a scale that is measured is no exponential of a logarithm, which did not always give the maximum back.
MEASURED = ("min_max", "stochastic", "sinreq", "deep_hoyer", "quant_noise", "waveq", "xnor", "twn")
# Version 3: sums in another order, by which no record is stale: those of the geometric code length, and on JAX on a CPU
# of `GradientRatio` with one scale for a kernel, or for a channel of a convolution.
# Version 4: `TargetSize` starts from the request and lands by moving scales: runs with a target are other runs.
# Versions 5 and 6: `TargetSize` moves scales earlier where rates cannot follow; and files are smaller by the coding
# `mixing`, so that the same size is another network. In 5, rates started from half as much.
# Version 7: rates start from 0.3 at most, sizes come from above as they do at a constant rate, and no scale is made
# smaller where most elements are zero.
# What a sparse file that is too large at the end has done to it has changed since then, from larger scales to fewer
# elements. No training step is another one: the runs that ended so were trained again, and are of version 7, too.
CHANGED_IN = dict.fromkeys(MEASURED, 2)
TARGETS_CHANGED_IN = 7

PACKAGES = ("keras", "numpy", "jax", "tensorflow")


def environment():
    """Return versions, device and commit of this process."""
    return {
        "python": platform.python_version(),
        **{f"{package}_version": _version(package) for package in PACKAGES},
        "lqs_version": lqs.__version__,
        "records_version": RECORDS_VERSION,
        "device": f"{platform.machine()} {_device()}",
        "cpus": _num_cpus(),  # TensorFlow's sums depend on how many threads share them
        "commit": _commit(),
    }


def _version(package):
    """Return the version of a package, `None` if it is not installed: JAX trains without TensorFlow."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device():
    """Return the kind of device that the backend computes on, such as `cpu` or `NVIDIA H200`."""
    import keras  # not above: who asks for the version of records needs no backend

    if keras.backend.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    return keras.distribution.list_devices()[0].split(":")[0]


def _num_cpus():
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@functools.cache
def _commit():
    """Return the commit of the checkout that this module lies in, `None` outside a checkout or without git."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
