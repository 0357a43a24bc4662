"""Mutation test of the library: change a module in one place, and see whether its own tests notice.

    python benchmarks/mutants.py                                    # a sample of every module
    python benchmarks/mutants.py lqs/scales.py --sample 0           # all mutants of one
    python benchmarks/mutants.py lqs/rules.py --sample 20 --seed 1

A module's own tests are its doctests and the test file of the same stem; for a published method, `test_common.py`, too.
They run on JAX, in a copy of the tree, up to the first failure. Printed are the survivors, which are missing tests or
changes without effect, and the share of mutants that were killed.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
import keras  # noqa: F401  # imported once here; each mutant is tested in a fork, which has no lqs yet
import pytest

ROOT = Path(__file__).resolve().parent.parent
TIMES_BASELINE = 5  # a mutant that takes this many times as long as the module itself is killed: it hangs

OPERATORS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{
        ast.Add: ast.Sub,
        ast.Sub: ast.Add,
        ast.Mult: ast.Div,
        ast.Div: ast.Mult,
        ast.FloorDiv: ast.Mult,
        ast.Pow: ast.Mult,
    },
}
PAIRS = [
    ("min", "max"),
    ("minimum", "maximum"),
    ("greater", "greater_equal"),
    ("less", "less_equal"),
    ("floor", "ceil"),
]
NAMES = dict(PAIRS) | {second: first for first, second in PAIRS} | {"amin": "amax", "amax": "amin"}


def changed(node):
    """Return the nodes that may stand in place of one."""
    new = copy.deepcopy(node)
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in OPERATORS:
            new.ops = [OPERATORS[type(operator)]()]
        case ast.BinOp(op=operator) | ast.BoolOp(op=operator) if type(operator) in OPERATORS:
            new.op = OPERATORS[type(operator)]()
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            return [operand]
        case ast.Constant(value=bool(value)):
            new.value = not value
        case ast.Constant(value=int(value)):
            new.value = value + 1
        case ast.Constant(value=float(value)):
            new.value = value * 1.1 or 0.1
        case ast.Call(func=ast.Attribute(attr="stop_gradient"), args=[operand]):
            return [operand]
        case ast.Call(func=ast.Attribute(attr=name)) if name in NAMES:
            new.func.attr = NAMES[name]
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            new.func.id = NAMES[name]
        case _:
            return []
    return [new]


def mutants(source):
    """Return pairs of a line that says the change, and the module's changed source."""
    found = []
    for index, node in enumerate(ast.walk(ast.parse(source))):
        for new in changed(node):
            tree = ast.parse(source)
            old = list(ast.walk(tree))[index]
            for parent in ast.walk(tree):
                for field, value in ast.iter_fields(parent):
                    if value is old:
                        setattr(parent, field, new)
                    elif isinstance(value, list) and any(item is old for item in value):
                        setattr(parent, field, [new if item is old else item for item in value])
            found.append((f"{node.lineno}: {ast.unparse(old)}  ->  {ast.unparse(new)}", ast.unparse(tree)))
    return found


def own_tests(module):
    """Return the paths of a module's tests: the file of its stem, the common one of its folder, its doctests."""
    folder = "lqs" if module.parent.name == "lqs" else module.parent.name
    names = [f"tests/{folder}/test_{module.stem}.py", *([f"tests/{folder}/test_common.py"] * (folder == "methods"))]
    return [*(name for name in names if (ROOT / name).exists()), str(module)]  # doctests import it anew: last


def survives(tree, tests, seconds=None):
    """Return whether the tests pass in a copy of the tree; not if they take longer than some seconds."""
    child = os.fork()
    if not child:
        os.chdir(tree)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--doctest-modules", *tests]))
    started = time.monotonic()
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if seconds and time.monotonic() - started > seconds:
            os.kill(child, 9)
        time.sleep(0.05)
    return ended[1] == 0


def test_module(module, tree, sample, seed):
    """Print the survivors among a sample of a module's mutants; return how many were killed, of how many."""
    tests, started = own_tests(module), time.monotonic()
    if not survives(tree, tests):
        sys.exit(f"{module}: its tests fail without any change: {' '.join(tests)}")
    limit = 10 + TIMES_BASELINE * (time.monotonic() - started)
    found = mutants((ROOT / module).read_text())
    chosen = random.Random(seed).sample(found, min(sample or len(found), len(found)))
    survivors = []
    for line, source in chosen:
        (tree / module).write_text(source)
        if survives(tree, tests, limit):
            survivors.append(line)
            print(f"{module}:{line}", flush=True)
    shutil.copy(ROOT / module, tree / module)
    print(f"{module}: {len(chosen) - len(survivors)} of {len(chosen)} killed, of {len(found)} possible", flush=True)
    return len(chosen) - len(survivors), len(chosen)


def main():
    """Test the modules that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", type=Path, default=sorted(ROOT.glob("lqs/**/*.py")))
    parser.add_argument("--sample", type=int, default=10, help="mutants of each module; 0 for all (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("lqs", "study", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        (tree / "data").symlink_to(ROOT / "data")
        modules = [module.resolve().relative_to(ROOT) for module in arguments.modules]
        modules = [module for module in modules if len(own_tests(module)) > 1]
        results = [test_module(module, tree, arguments.sample, arguments.seed) for module in modules]
    killed, chosen = map(sum, zip(*results, strict=True))
    print(f"{killed} of {chosen} mutants killed: {killed / chosen:.0%}")


if __name__ == "__main__":
    main()
