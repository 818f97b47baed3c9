"""Labels and captions of a data set as tensors and columns; a row that has none is refused by its file and key."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

import corruptkit as ck


def read_labels(dataset: ck.Dataset, known: int, classes: int) -> Tensor:
    """(N,) int64 class ids in source order; a null label, which the variant declares as its K, becomes the null id."""
    labels = dataset.index().numbers("label").copy()
    null = (labels == known) & dataset.null_label
    labels[null] = classes
    wrong = ((labels < 0) | (labels >= classes)) & ~null
    if wrong.any():
        row = int(wrong.argmax())
        found = f"label {labels[row]}" if labels[row] >= 0 else "a row without a label"
        expected = f"labels below {classes} ({wrong.sum():,} rows have none)"
        raise ck.DatasetError(_row_problem(dataset, row, found, expected, "mend the labels or state more classes"))
    return torch.from_numpy(labels)


def column_of_captions(dataset: ck.Dataset) -> pa.Array | pa.ChunkedArray:
    """Captions in source order."""
    captions = dataset.index().column("caption")
    if captions.null_count:
        row = int(np.flatnonzero(np.asarray(captions.is_null()))[0])
        found, expected = "a row without a caption", f"a caption in every row ({captions.null_count:,} rows have none)"
        raise ck.DatasetError(_row_problem(dataset, row, found, expected, "give it one, were it empty, or train on labels"))
    return captions


def _row_problem(dataset: ck.Dataset, row: int, found: str, expected: str, do: str) -> ck.Problem:
    index = dataset.index()
    shard = dataset.shards[int(index.numbers("shard")[row])]
    return ck.Problem(str(shard), found, expected, do, key=index.column("key")[row].as_py())
