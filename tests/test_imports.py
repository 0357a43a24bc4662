"""The import direction (docs/design.md): a module imports only from rooms before its own; lqs never imports study."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lqs

ROOT = Path(__file__).resolve().parent.parent

# From the first to the last; names on one line do not need each other. A folder stands for all of its modules.
LIBRARY = """
    _keras strengths parts
    granularity outputs
    scales
    rounding reductions
    rules
    penalties
    quantizer
    methods
    presets
    substitution
    layers tables
    inspection
    copying
    conversion
    file
    compression
    control comparison plots
    export
    cli
"""
FILE = """
    atomic layout checks known
    assets configuration bins
    contexts mixing compiled inference
    ans
    reader
    writer
    saving
    sizes dictionary
"""
STUDY = """
    paths
    parameters
    downloads
    augmentation
    datasets
    examples
    networks
    protocols
    nulls
    methods
    configs
    grid
    environment statistics
    records
    weights scan
    training
    gpu
    digits
    comparison
    claims
    styles
    figures
    diagrams
    references
    book
    __main__
"""


def floors(text, separator="\n"):
    """Return the floor of each name: 0 for those of the first line, which import from no other."""
    lines = filter(str.strip, text.split(separator))
    return {name: floor for floor, line in enumerate(lines) for name in line.split()}


def sources(package):
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / package).rglob("*.py")}


MODULES = sources("lqs") | sources("study")


def imported(path):
    """Return the modules that a file imports at any depth, without what only type checkers read."""
    names = set()
    pending = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES or f"{name}.__init__" in MODULES else node.module for name in whole}
        pending += ast.iter_child_nodes(node)
    return names


IMPORTS = {module: imported(path) for module, path in MODULES.items()}


def arrows(package, depth=1):
    """Return the pairs of rooms (one, another) where a module of the one imports the other; rooms are `depth` deep."""
    pairs = set()
    for module, names in IMPORTS.items():
        for name in names:
            rooms = [parts[depth] for parts in (module.split("."), name.split(".")) if len(parts) > depth]
            inside = all(f"{part}.".startswith(f"{package}.") for part in (module, name))
            if inside and len(rooms) == 2 and rooms[0] != rooms[1]:
                pairs.add(tuple(rooms))
    return sorted(pairs)


@pytest.mark.parametrize(
    ("package", "order", "depth"),
    [
        ("lqs", floors(LIBRARY), 1),
        ("lqs.file", floors(FILE), 2),
        ("study", floors(STUDY), 1),
    ],
    ids=["lqs", "lqs.file", "study"],
)
def test_a_module_imports_only_from_rooms_before_its_own(package, order, depth):
    found = {module.split(".")[depth] for module in MODULES if f"{module}.".startswith(f"{package}.")} - {"__init__"}
    assert found - set(order) == set(), "a new room needs its place in the order"
    assert [pair for pair in arrows(package, depth) if order[pair[1]] >= order[pair[0]]] == []


def test_the_library_never_imports_the_study():
    guilty = [module for module, names in IMPORTS.items() for name in names if name.split(".")[0] == "study"]
    assert [module for module in guilty if module.split(".")[0] == "lqs"] == []


def test_private_names_of_keras_are_in_one_module():
    guilty = [module for module, names in IMPORTS.items() for name in names if f"{name}.".startswith("keras.src.")]
    assert {module for module in guilty if module.startswith("lqs.")} <= {"lqs._keras"}


def test_design_says_the_order():
    rows = [line.split("`")[1] for line in (ROOT / "docs/design.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == [*floors(LIBRARY), *floors(STUDY)]


# The lazy package


def in_fresh_process(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_names_for_type_checkers_are_the_lazy_ones():
    (block,) = [node for node in ast.parse((ROOT / "lqs/__init__.py").read_text()).body if isinstance(node, ast.If)][:1]
    for_checkers = {alias.name: node.module for node in block.body for alias in node.names}
    assert for_checkers == lqs._MODULE_OF


def test_every_public_name_is_there_and_no_other():
    assert all(getattr(lqs, name) is not None for name in lqs.__all__)
    assert set(lqs.__all__) <= set(dir(lqs))
    assert lqs.rules.Frozen is lqs.Frozen
    with pytest.raises(AttributeError, match="module 'lqs' has no attribute 'quantise'"):
        _ = lqs.quantise


def test_public_names_are_few():
    assert len(lqs.__all__) <= 27


HEAVY = ["keras", "tensorflow", "jax", "torch", "pandas", "constriction"]


def test_import_of_lqs_imports_no_backend():
    loaded = in_fresh_process("import sys, lqs; print(lqs.__version__, *sys.modules)")
    assert loaded[0] == lqs.__version__
    assert {*HEAVY, "numpy"} & set(loaded) == set()


@pytest.mark.parametrize("arguments", [["--version"], ["info", "model.lqs"]], ids=["version", "info"])
def test_command_imports_no_keras(arguments, tmp_path):
    import keras

    lqs.save(lqs.quantize(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])), tmp_path / "model.lqs")
    code = f"""if True:
        import os, sys
        os.chdir({str(tmp_path)!r})
        sys.argv = {["lqs", *arguments]!r}
        from lqs.cli import main
        try:
            main()
        except SystemExit as end:
            assert not end.code
        print(*sys.modules)"""
    assert set(HEAVY[:-1]) & set(in_fresh_process(code)) == set()


def registered_classes():
    """Return the names of classes in lqs that are decorated by `register_keras_serializable("lqs")`."""
    trees = [ast.parse(path.read_text()) for path in sources("lqs").values()]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    registered = "keras.saving.register_keras_serializable('lqs')"
    return {f"lqs>{node.name}" for node in classes if registered in map(ast.unparse, node.decorator_list)}


@pytest.mark.parametrize(
    "imports",
    [
        "import keras; import lqs",
        pytest.param("import lqs; import keras; lqs.quantize", marks=pytest.mark.slow),
        pytest.param("import keras; from lqs.rules import Frozen", marks=pytest.mark.slow),
    ],
)
def test_every_class_is_registered(imports):
    code = f"{imports}; print(*keras.saving.get_custom_objects())"
    assert {name for name in in_fresh_process(code) if name.startswith("lqs>")} == registered_classes()


def test_keras_loads_a_quantized_model_after_import_lqs(tmp_path):
    import keras

    model = lqs.quantize(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))
    model.save(tmp_path / "model.keras")
    code = (
        f"import keras; import lqs; print(type(keras.models.load_model({str(tmp_path / 'model.keras')!r}).layers[0]))"
    )
    assert in_fresh_process(code) == ["<class", "'lqs.layers.QuantizedDense'>"]
