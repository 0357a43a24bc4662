"""Run records: one JSON file per training run, `<root>/<dataset>/<id>.json`, written whole or not at all.

`data/README.md` gives the meaning of each field.
"""

import json
from pathlib import Path

from lqs.file.atomic import write_atomically
from study.configs import PART_OF_FIELD, Config
from study.environment import CHANGED_IN, TARGETS_CHANGED_IN
from study.paths import PUBLISHED, RUNS

PUBLISHED_QUANTITIES = ("accuracy", "unique", "min", "max", "zip_megabytes")
# What notebooks ask every table for. A float run lacks the statistics of integers.
MEASURES = ("seconds", "val_accuracy", "val_cross_entropy", "zip_bytes", "fp32_bytes", "file_bytes")
STATISTICS = ("unique", "min", "max", "zeros", "entropy_bits")


def record_path(config, root=RUNS):
    """Return where the record of `config` lies or will lie."""
    return Path(root) / config.data.dataset / f"{config.id}.json"


def write_record(record, root=RUNS):
    """Write a record and return its path; a crash in the middle leaves no file, or the old one."""
    path = record_path(Config.from_flat(record["config"]), root)
    write_atomically(path, (json.dumps(record, indent=None, separators=(",", ":")) + "\n").encode())
    return path


def read_record(config, root=RUNS):
    """Return the record of `config`, or `None` if it has not been run.

    Raises:
        ValueError: if the file is not a record of this configuration.
    """
    path = record_path(config, root)
    if not path.exists():
        return None
    record = _parse(path)
    if Config.from_flat(record["config"]) != config:
        raise ValueError(f"{path} is the record of another configuration: {record['config']}")
    return record


def is_stale(record):
    """Return whether a record is of a version with other bits in the training steps of its method than today."""
    config, version = record["config"], record["environment"].get("records_version", 0)
    has_target = config.get("target_ratio") is not None
    return version < max(CHANGED_IN.get(config["method"], 0), TARGETS_CHANGED_IN if has_target else 0)


def read_current_record(config, root=RUNS):
    """Return the record of `config`, or `None` if it has to be trained: it has not been run, or its record is stale.

    Raises:
        ValueError: as `read_record`.
    """
    record = read_record(config, root)
    return None if record is None or is_stale(record) else record


def read_records(root=RUNS, dataset="*"):
    """Return all records under `root`, of one dataset or of all, as one table with one row per run.

    Columns are the fields of `config`, `environment` and `final`; `history` and `parameters` hold their lists.
    The column `id` is derived from the configuration.

    Args:
        root: folder of the records.
        dataset: name of a dataset.

    Returns:
        `pandas.DataFrame`, sorted by id; empty if there is none.
    """
    paths = sorted(Path(root).glob(f"{dataset}/*.json"))
    return to_table(_parse(path) for path in paths)


def to_table(records):
    """Return the table of `read_records` for the given records; without any, it has the columns all the same."""
    import pandas as pd  # not above: the paths of records, which Snakemake asks for, need none

    table = pd.DataFrame([_row(record) for record in records])
    known = [
        *PART_OF_FIELD,
        "seconds",
        "val_accuracy",
        "val_cross_entropy",
        *STATISTICS,
        "zip_bytes",
        "fp32_bytes",
        "file_bytes",
    ]
    missing = [name for name in [*known, "history", "parameters"] if name not in table]
    return table.assign(**dict.fromkeys(missing, float("nan")))


def read_published(dataset, path=PUBLISHED):
    """Return the thesis's values for one dataset, one row per setting, a column per quantity.

    They are read from the submitted text and off its plots, to about two digits. Accuracies are in percent,
    sizes in 10**6 bytes. What the text does not name (a granularity, a regime, a strength) is missing.

    Example:

    >>> table = read_published("mnist").query("method == 'nested' and strength == 1e-9")
    >>> table[["granularity", "accuracy", "unique"]].to_numpy().tolist()
    [['row', 93.0, 8.0], ['scalar', 90.5, 7.5]]
    """
    import pandas as pd

    values = pd.read_csv(path)
    keys = ["method", "granularity", "regime", "strength"]
    rows = values[values["dataset"] == dataset].set_index([*keys, "quantity"])["value"]
    table = rows.unstack("quantity").reindex(columns=list(PUBLISHED_QUANTITIES))
    return table.reset_index().rename_axis(columns=None)


def _parse(path):
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        Config.from_flat(record["config"])
        return {key: record[key] for key in ("config", "environment", "history", "final", "parameters")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a run record: {error!r}") from error


def _row(record):
    config = Config.from_flat(record["config"])
    lists = {"history": record["history"], "parameters": record["parameters"]}
    return {**config.flat(), "id": config.id, **record["environment"], **record["final"], **lists}
