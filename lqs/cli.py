"""The command `lqs`: look into `.lqs` files, make them of `.keras` files and back.

Keras is imported only where a model is made: `info`, `--help` and `--version` take a fraction of a second.
"""

import sys
from pathlib import Path
from typing import Any

import click

import lqs

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW = click.Path(dir_okay=False, path_type=Path)
INFERENCE_ONLY = click.option(
    "--inference-only", is_flag=True, help="Leave out what training alone needs; the model cannot be trained on."
)
HEADINGS = ("array", "shape", "integers", "unique", "codes", "table", "scale", "values")


@click.group(help="Look into .lqs files, make them of .keras files and back.")
@click.version_option(lqs.__version__, package_name="lqs")
def commands() -> None:
    """Group of the commands."""


@commands.command()
@click.argument("path", type=EXISTING)
def info(path: Path) -> None:
    """Print what is in a .lqs file: a line for each array, and where its bytes go."""
    from lqs.file import layout, reader

    content = path.read_bytes()
    configuration, tensors = reader.parse(content)
    version = content[len(layout.MAGIC)]
    click.echo(f"{configuration.get('class_name')} of {len(tensors)} arrays, format {version}")
    num_header_bytes = len(content) - sum(sum(tensor.sections.values()) for tensor in tensors)
    _print_columns([HEADINGS, *map(_row, tensors), ("header", *[""] * 6, num_header_bytes)])
    click.echo(f"{len(content):,} bytes")


@commands.command()
@click.argument("path", type=EXISTING)
@click.option("-o", "--output", type=NEW, help="The .lqs file; by default beside the .keras file.")
@click.option(
    "--float-dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    default="float32",
    show_default=True,
    help="Type to store what is not quantized in; the smaller ones round it.",
)
@INFERENCE_ONLY
def pack(path: Path, output: Path | None, float_dtype: str, inference_only: bool) -> None:
    """Make a .lqs file of a .keras file."""
    from lqs.file.configuration import read_keras
    from lqs.file.saving import save
    from lqs.inspection import quantized_parameters

    output, model = output or path.with_suffix(".lqs"), read_keras(path)
    save(model, output, float_dtype, inference_only)
    click.echo(f"{output}: {output.stat().st_size:,} bytes, {path.name} has {path.stat().st_size:,}")
    if not quantized_parameters(model):
        click.echo(f"{path.name} is a float model, and pack quantizes nothing: `lqs compress` does.", err=True)


@commands.command()
@click.argument("path", type=EXISTING)
@click.argument("output", type=NEW, required=False)
@click.option("--calibration", type=EXISTING, help="Inputs of the model: a .npy, or a .npz of one array for each.")
@click.option("--max-change", type=float, help="Largest share of predictions that change, such as 0.001.")
@click.option("--ratio", type=float, help="How many times smaller than in float32.")
@click.option("--bytes", "num_bytes", type=int, help="Size of the file.")
@INFERENCE_ONLY
def compress(path: Path, output: Path | None, calibration: Path | None, num_bytes: int | None, **request: Any) -> None:
    """Make a small .lqs file of a float .keras file, without labels and without training.

    Give one of --max-change, --ratio and --bytes. Without OUTPUT, the .lqs file is beside the .keras file.
    """
    output = output or path.with_suffix(".lqs")
    if output.suffix != ".lqs":
        raise click.BadParameter(f"{output} does not end in .lqs", param_hint="OUTPUT")
    from lqs.compression import compress
    from lqs.compression.examples import read_arrays
    from lqs.file.configuration import read_keras
    from lqs.file.saving import save

    model = read_keras(path)
    small = compress(model, calibration and read_arrays(calibration, model), **request, bytes=num_bytes, verbose=True)
    save(small, output, inference_only=request["inference_only"])
    click.echo(f"{output}: {output.stat().st_size:,} bytes, {path.name} has {path.stat().st_size:,}")


@commands.command()
@click.argument("path", type=EXISTING)
@click.option("-o", "--output", type=NEW, help="The .keras file; by default beside the .lqs file.")
def unpack(path: Path, output: Path | None) -> None:
    """Make a .keras file of a .lqs file."""
    output = output or path.with_suffix(".keras")
    if output.suffix != ".keras":
        raise click.BadParameter(f"{output} does not end in .keras", param_hint="--output")
    from lqs.file.atomic import replacing
    from lqs.file.saving import load

    model = load(path)
    with replacing(output) as partial:
        complete = partial.with_suffix(".keras")  # Keras insists
        try:
            model.save(complete)
            complete.replace(partial)
        finally:
            complete.unlink(missing_ok=True)
    click.echo(f"{output}: {output.stat().st_size:,} bytes")


def _row(tensor: Any) -> tuple[Any, ...]:
    """Return the cells of a tensor, in the order of `HEADINGS`."""
    integers = tensor.integers
    is_empty = integers is None or not integers.size
    limits = ("", "") if is_empty else (f"{integers.min()}…{integers.max()}", len(set(integers.ravel().tolist())))
    sizes = [tensor.sections.get(name, "") for name in HEADINGS[4:]]
    return (tensor.name, "×".join(map(str, tensor.array.shape)), *limits, *sizes)


def _print_columns(rows: list[tuple[Any, ...]]) -> None:
    """Print rows of cells, the first of each to the left and the others to the right."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        click.echo(f"{name:<{widths[0]}}  " + "  ".join(f"{c!s:>{w}}" for c, w in zip(cells, widths[1:], strict=True)))


def main() -> None:
    """Run the command; an error is one line and exit code 1, wrong use exit code 2."""
    try:
        commands()
    except (ValueError, TypeError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        click.echo(f"error: {lines[0]}", err=True)
        sys.exit(1)
