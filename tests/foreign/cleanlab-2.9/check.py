"""cleanlab's noise generator beside ours, asked for the same share of changed labels. Prints one line, or fails.

A noise matrix of 1 - R on its diagonal and R / (K - 1) beside it asks cleanlab for R; both get the same labels.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import numpy as np
import pyarrow as pa
from cleanlab.benchmarking.noise_generation import generate_noisy_labels

import corruptkit as ck
from corruptkit.index import ShardStat, make_index

RATIO = "0.05"
SIZES = ((10, 5000), (1000, 1300))  # classes, rows of each: the second is ImageNet's


def flip_theirs(labels: np.ndarray, classes: int) -> int:
    """Labels that cleanlab changes."""
    share = float(RATIO)
    matrix = np.full((classes, classes), share / (classes - 1))
    np.fill_diagonal(matrix, 1 - share)
    np.random.seed(0)  # noqa: NPY002 - the one source of chance that it takes
    return int((np.asarray(generate_noisy_labels(labels, matrix)) != labels).sum())


def flip_ours(labels: np.ndarray, classes: int) -> ck.Account:
    """The account of our plan over rows that lie in no file."""
    count = len(labels)
    columns = {name: np.zeros(count, np.int64) for name in ("offset", "length")} | {"position": np.arange(count), "label": labels}
    keys = pa.array([f"{row:09d}" for row in range(count)], pa.large_string())
    table = pa.table({"key": keys, "caption": pa.nulls(count, pa.large_string()), **columns})
    stats = [ShardStat(name="memory", bytes=0, mtime_ns=0, rows=count, digest="")]
    how = {"split": "train", "key_rule": "sample", "classes": classes, "null_label": False, "where": "memory"}
    index = make_index([table], stats, **how)
    return ck.describe_plan(ck.make_plan(ck.Recipe(seed=0, chain=[ck.Flip(ratio=RATIO)]), index), index)


def main() -> None:
    said = []
    for classes, rows in SIZES:
        labels = np.repeat(np.arange(classes), rows)
        theirs, ours = flip_theirs(labels, classes), flip_ours(labels, classes)
        fit = ours.stages[0].labels.targets
        if ours.changed != len(labels) // 20 or fit.outside or not 1e-4 < fit.p_value < 1 - 1e-4:
            sys.exit(f"error: corruptkit changed {ours.changed} of {len(labels)} labels, {fit}")
        said.append(f"K = {classes} x {rows:,}: cleanlab changed {theirs:,} labels, corruptkit {ours.changed:,} of {len(labels):,}")
    if theirs:
        sys.exit(f"error: {said[-1]}: the failure of cleanlab that is told of is not there")
    print(f"cleanlab {version('cleanlab')}, 5 % asked for; {'; '.join(said)}")


if __name__ == "__main__":
    main()
