"""Data sets of the library `datasets`: tables that get a column in the place of another, and streams that are edited as they flow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from corruptkit.digest import canonical_json, sha256_hex
from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.cells import row_key
from corruptkit.formats.conditions import FieldName, RowEdit
from corruptkit.formats.editing import edit_rows
from corruptkit.formats.layout import Shard, changed_source
from corruptkit.formats.table import Fields, read_keys
from corruptkit.memory.tables import (
    Held,
    How,
    bare_table,
    base_path,
    column_of,
    edit_columns,
    find_cells,
    pack_values,
    pick_values,
    read_pieces,
    slim_piece,
    wanted_names,
)
from corruptkit.plan import Plan
from corruptkit.recipe import drops_labels

if TYPE_CHECKING:
    import datasets

_SCANNED, _EDITED = 1000, 100  # rows at a time; those that are edited have their images with them


def read_dataset(dataset: datasets.Dataset, how: How) -> Held:
    """The index of a data set; images stay where they are."""
    table, rows = dataset.data.table, _base_rows(dataset)

    def read_bare(fields: Fields) -> list[pa.Table]:
        bare = bare_table(table, fields)
        return [bare if rows is None else bare.take(pa.array(rows))]

    return read_pieces("datasets.Dataset", dataset.features.arrow_schema, read_bare, how, split=str(dataset.split or ""))


def _base_rows(dataset: datasets.Dataset) -> Any:
    """The rows of the table that a data set was selected or shuffled to; None where it is the table."""
    indices = dataset._indices  # noqa: SLF001 - without them, a shuffled data set gives conditions with its images alone
    return None if indices is None else indices.column(0).to_numpy().astype(np.int64)


def edit_dataset(dataset: datasets.Dataset, held: Held, plan: Plan) -> datasets.Dataset:
    """The data set with a column in the place of each that is edited; no image is copied, in whatever order the rows are."""
    import datasets

    rows, cells = _base_rows(dataset), find_cells(plan, held.index)
    if rows is not None and len(np.unique(rows)) < len(rows):  # a row that stands in it twice has two conditions from now on
        dataset, rows = dataset.flatten_indices(), None
    mark = sha256_hex(canonical_json([dataset._fingerprint, plan.variant_id, list(held.fields)]))[:16]  # noqa: SLF001 - as map() marks
    features = _edited_features(dataset.features, held, plan)
    base = datasets.Dataset(dataset.data, info=dataset.info, split=dataset.split, fingerprint=mark)
    edited = {column_of(field, held.fields) for field in cells}
    names = [name for name in features if name in edited or features[name] != dataset.features[name]]
    placed = {field: (places if rows is None else rows[places], values) for field, (places, values) in cells.items()}
    columns = edit_columns({name: base.data.table[name] for name in names}, placed, held)
    longest = max(features, key=len, default="")
    new_names = {f"{longest} {name}": name for name in columns}  # longer than any that there is
    for new_name, name in new_names.items():
        base = base.add_column(new_name, columns[name], feature=features[name])
    base = base.remove_columns(names).rename_columns(new_names)
    base = base.select_columns(list(features))
    indices = dataset._indices  # noqa: SLF001 - what selects and orders rows holds for the new columns too
    made = datasets.Dataset(base.data, info=base.info, split=dataset.split, indices_table=indices, fingerprint=mark)
    shown = dataset.format
    columns_shown = None if shown["columns"] == dataset.column_names else shown["columns"]  # None: those that are added later too
    made.set_format(shown["type"], columns_shown, shown["output_all_columns"], **shown["format_kwargs"])
    return made


def _edited_features(features: Any, held: Held, plan: Plan) -> Any:
    """The features of a variant: labels among which may be the null label are numbers, since no class has its name."""
    import datasets

    label = held.fields.label
    if label and isinstance(features[label], datasets.ClassLabel) and drops_labels(plan.recipe.identity()):
        return datasets.Features({**features, label: datasets.Value("int64")})
    return features.copy()


def read_stream(stream: datasets.IterableDataset, how: How) -> Held:
    """The index of a stream, in one pass over its rows; images are read for their paths alone, and never decoded."""
    name, split = "datasets.IterableDataset", str(stream.split or "")
    if stream.features is None:
        table = pack_values(stream.with_format(None), wanted_names(how), name)
        held = read_pieces(name, table.schema, lambda _: [table], how, split=split)
    else:
        held = read_pieces(name, stream.features.arrow_schema, lambda fields: _stream_pieces(stream, fields), how, split=split)
    if held.shard.layout.key_rule == "ordinal" and len(held.index):
        raise _no_keys(name)
    return held


def _no_keys(name: str) -> DatasetError:
    found, do = "rows without keys", "give the stream a column of keys, or load it whole"
    return DatasetError(Problem(name, found, "keys, since a stream may come in any order", do, key="key"))


def _stream_pieces(stream: datasets.IterableDataset, fields: Fields) -> Iterator[pa.Table]:
    names = fields.needed(stream.features.arrow_schema)
    whole = list(dict.fromkeys(name if name in stream.features else fields.image for name in names))
    if not whole:
        raise _no_keys("datasets.IterableDataset")
    for piece in stream.select_columns(whole).with_format("arrow").iter(batch_size=_SCANNED):
        yield bare_table(piece, fields) if fields.image in whole else piece


@dataclass(frozen=True)
class StreamEdits:
    """What happens to the rows of a stream, by key: on tables of them, or row by row where the stream has no features."""

    edits: Mapping[str, RowEdit]
    fields: Fields
    shard: Shard

    def edit_piece(self, piece: pa.Table) -> pa.Table:
        """A piece of the stream with its edits applied."""
        fields, shard = self.fields, self.shard
        keys = read_keys(slim_piece(piece, fields), fields, shard, 0, {})
        mine = {row: (key, self.edits[key]) for row, key in enumerate(keys.to_pylist()) if key in self.edits}
        return edit_rows(piece, mine, fields, shard) if mine else piece

    def edit_example(self, example: dict[str, Any]) -> dict[str, Any]:
        """A row with its edits applied."""
        fields, shard = self.fields, self.shard
        names = [name for name in (fields.key, fields.image, fields.label, fields.caption) if name]
        values = dict.fromkeys(names) | dict(pick_values(example, names, str(shard.file)))
        if isinstance(image := values.get(fields.image), dict):
            values[fields.image] = {**image, "path": image["path"] and base_path(image["path"])}
        key = row_key(values, fields, shard, 0)
        for field, (old, new) in self.edits.get(key, {}).items():
            name = column_of(field, fields)
            if str(values[name]) != old:
                raise changed_source(shard.file, key, f"the {field} {values[name]!r:.80}", f"{old!r:.80}")
            example = {**example, name: int(new) if field == "label" else new}
        return example


def edit_stream(stream: datasets.IterableDataset, held: Held, plan: Plan) -> datasets.IterableDataset:
    """A stream that applies the edits as it is read, in whatever order and to whatever part of it."""
    edits = StreamEdits(_edits_by_key(plan.composed.to_pylist()), held.fields, held.shard)
    if stream.features is None:
        return stream.map(edits.edit_example)
    features = _edited_features(stream.features, held, plan)
    formatting = stream._formatting  # noqa: SLF001 - what it shows rows as; there is no public name for it
    tables = stream.with_format("arrow").map(edits.edit_piece, batched=True, batch_size=_EDITED, features=features)
    return tables.with_format(formatting and formatting.format_type)


def _edits_by_key(composed: Iterable[Mapping[str, Any]]) -> dict[str, RowEdit]:
    found: dict[str, dict[FieldName, tuple[str, str]]] = {}
    for edit in composed:
        found.setdefault(edit["key"], {})[edit["field"]] = (edit["old"], edit["new"])
    return dict(found)
