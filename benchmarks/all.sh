# Prints all measurements of speed as one document. Run by `make bench`.
set -e
export TF_CPP_MIN_LOG_LEVEL=3

echo "# Measured speed"
echo
echo "Written by \`make bench\` on $(date +%F), at commit $(git rev-parse --short HEAD); what each script does is in README.md"
echo "here. Ratios are medians of rounds, with the least and the greatest round."
echo
python - <<'END'
import importlib.metadata as metadata
import os
import platform

names = ["keras", "jax", "tensorflow", "numpy", "onnxruntime", "ai-edge-litert"]
print(f"Python {platform.python_version()}, " + ", ".join(f"{name} {metadata.version(name)}" for name in names) + ".")
load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
print(f"\n{platform.machine()} with {len(os.sched_getaffinity(0))} cores; load of the last 1, 5, 15 minutes: {load}.")
END

section() { printf '\n## %s\n' "$1"; }

section "A training step"
KERAS_BACKEND=jax python benchmarks/step_time.py mnist 2>/dev/null
KERAS_BACKEND=tensorflow python benchmarks/step_time.py mnist --rounds 15 2>/dev/null
KERAS_BACKEND=tensorflow python benchmarks/step_time.py cifar10 --rounds 5 2>/dev/null

section "An epoch"
KERAS_BACKEND=jax python benchmarks/epochs.py 2>/dev/null
KERAS_BACKEND=tensorflow python benchmarks/epochs.py 2>/dev/null

section "Files"
KERAS_BACKEND=jax python benchmarks/files.py 2>/dev/null
KERAS_BACKEND=jax python benchmarks/packing.py 2>/dev/null

section "Exported files"
python benchmarks/latency.py 2>/dev/null
