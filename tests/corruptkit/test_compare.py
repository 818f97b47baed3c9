"""What only a comparison with the source can see: variants whose forger has made every digest fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from corruptkit.opening import open_dataset
from corruptkit.plan import make_plan
from corruptkit.verify import verify
from corruptkit.write import write_variant
from tests.corruptkit.damage import Json, chain_recipe, forge_edits, forge_variant, published_source
from tests.corruptkit.shards import HIDDEN


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_source(tmp_path_factory.mktemp("compare") / "source")


@pytest.fixture(scope="module")
def variant(source: Path) -> Path:
    dataset = open_dataset(source)
    write_variant(dataset, make_plan(chain_recipe(source.parent), dataset.index()), source.parent / "variant")
    return source.parent / "variant"


def change_byte(name: str, place: int) -> Callable[[Path, Json], None]:
    def change(folder: Path, _: Json) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 1
        (folder / name).write_bytes(content)

    return change


def change_sidecar(folder: Path, _: Json) -> None:
    path = folder / "00001.parquet"
    table = pq.read_table(path)
    names = table.column_names
    pq.write_table(table.set_column(names.index("caption"), "caption", [["forged"] * len(table)]), path)


def lengthen_originals(folder: Path, _: Json) -> None:
    with (folder / HIDDEN / "originals.tar").open("ab") as file:
        file.write(bytes(512))


FORGED = {
    "an image": (change_byte("00001.tar", 700), "00001.tar"),
    "the end of a shard": (change_byte("00002.tar", -1), "00002.tar"),
    "an original": (change_byte(f"{HIDDEN}/originals.tar", 600), "originals.tar"),
    "the end of the originals": (change_byte(f"{HIDDEN}/originals.tar", -1), "originals.tar"),
    "longer originals": (lengthen_originals, "originals.tar"),
    "a side-car": (change_sidecar, "00001.parquet"),
    "a side-car that is none": (change_byte("00001.parquet", -1), "00001.parquet"),
    "a licence": (change_byte("LICENSE", 0), "LICENSE"),
}


@pytest.mark.parametrize(("forge", "name"), FORGED.values(), ids=FORGED.keys())
def test_forged_bytes_are_seen_beside_the_source(
    source: Path, variant: Path, tmp_path: Path, forge: Callable[[Path, Json], None], name: str
) -> None:
    forged = forge_variant(variant, tmp_path / "forged", forge)
    assert not verify(forged).problems, "every digest fits, and no condition differs"
    (problem,) = verify(forged, source=source, deep=True).problems
    assert Path(problem.file).name == name


def test_honest_variant_stands_the_comparison(source: Path, variant: Path) -> None:
    found = verify(variant, source=source, deep=True)
    assert not found.problems
    assert found.checks[-1].startswith("every byte of every shard")


def test_source_with_other_shards_is_refused(source: Path, variant: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(source, other, ignore=shutil.ignore_patterns(HIDDEN))
    (other / "00002.tar").rename(other / "00003.tar")
    (problem,) = verify(variant, source=other, deep=True).problems
    assert "3 shards, expected the source's 3 shards, by name" in str(problem)


def test_edit_under_another_shard_is_found(variant: Path, tmp_path: Path) -> None:
    def misplace(rows: list[Json]) -> None:
        rows[0]["shard"] = "00002.tar" if rows[0]["shard"] != "00002.tar" else "00000.tar"

    forged = forge_variant(variant, tmp_path / "forged", lambda folder, manifest: forge_edits(folder, manifest, misplace))
    (problem,) = verify(forged).problems
    assert "edits under other shards" in str(problem)
