"""Frames of polars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.conditions import FieldName
from corruptkit.formats.editing import too_narrow
from corruptkit.formats.table import Fields, has_path
from corruptkit.memory.tables import Held, How, column_of, edit_columns, find_cells, read_pieces, wanted_names
from corruptkit.plan import Plan

if TYPE_CHECKING:
    import polars as pl


def read_frame(frame: pl.DataFrame, how: How) -> Held:
    """The index of a frame, from its columns of keys and conditions; of images, the paths."""
    schema = _read_schema(frame, wanted_names(how))
    return read_pieces("polars.DataFrame", schema, lambda fields: [_read_bare(frame, schema, fields)], how)


def _read_schema(frame: pl.DataFrame, wanted: list[str]) -> pa.Schema:
    """The columns that Arrow has a type for. Raises DatasetError where one that is `wanted` has none."""
    fields: list[pa.Field] = []
    for name, kind in frame.schema.items():
        try:
            fields.extend(_as_arrow(frame.select(name).clear()).schema)
        except pa.ArrowException:
            if name in wanted:
                found = f"the column '{name}' is of type {kind}"
                raise DatasetError(Problem("polars.DataFrame", found, "a type that Arrow has", "cast the column")) from None
    return pa.schema(fields)


def _as_arrow(frame: pl.DataFrame) -> pa.Table:
    import polars as pl

    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _read_bare(frame: pl.DataFrame, schema: pa.Schema, fields: Fields) -> pa.Table:
    """The columns of keys and conditions, and of images whether they are there and their paths."""
    import polars as pl

    bare = frame.select([name for name in (fields.key, fields.label, fields.caption) if name])
    if fields.image:
        image = pl.col(fields.image)
        inner = image.struct.field("bytes") if pa.types.is_struct(schema.field(fields.image).type) else image
        parts = [pl.when(inner.is_not_null()).then(pl.lit(b"")).alias("bytes")]
        parts += [image.struct.field("path")] if has_path(schema, fields.image) else []
        bare = bare.with_columns(frame.select(pl.struct(parts).alias(fields.image)).to_series())
    return _as_arrow(bare) if bare.width else pa.table({"": pa.nulls(frame.height)})


def edit_frame(frame: pl.DataFrame, held: Held, plan: Plan) -> pl.DataFrame:
    """The frame with a column in the place of each that is edited."""
    cells = find_cells(plan, held.index)
    fields = {column_of(field, held.fields): field for field in cells}
    columns = {name: _as_arrow(frame.select(name))[name] for name in fields}
    for name, column in edit_columns(columns, cells, held).items():
        frame = frame.with_columns(_as_series(name, column, frame, fields[name], held))
    return frame


def _as_series(name: str, column: pa.ChunkedArray, frame: pl.DataFrame, field: FieldName, held: Held) -> pl.Series:
    import polars as pl

    kind = frame.schema[name]
    try:
        return pl.Series(name, column).cast(kind)
    except pl.exceptions.PolarsError:  # categories that are fixed do not hold a new caption
        raise too_narrow(name, kind, field, str(held.shard.file)) from None
