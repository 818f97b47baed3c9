"""Remote tars are indexed from img2dataset's Parquet where that says what they hold, and read where it does not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import corruptkit as ck
from corruptkit.errors import DatasetError, TransferWarning
from tests.corruptkit.remote.served import Serve, write_fetched
from tests.corruptkit.shards import make_rows, write_shards
from tests.web import serve_folder

SWAP = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.1")])
REPOSITORY = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.filterwarnings("ignore::corruptkit.errors.TransferWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # fsspec's sessions live as long as their loop
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # as they are collected
]


@pytest.mark.parametrize("kind", ["http", "hf", "s3"])
def test_tars_are_indexed_from_their_side_cars(tmp_path: Path, serve: Serve, kind: str) -> None:
    rows = make_rows(60)
    rows[5] = rows[5]._replace(caption="")
    write_fetched(tmp_path / "src", rows, 300)
    here, there = ck.open_dataset(tmp_path / "src"), ck.open_dataset(serve(kind, tmp_path / "src"))
    assert there.index().meta.fingerprint == here.index().meta.fingerprint
    assert there.index().numbers("offset").max() == -1
    assert list(there.rows()) == list(here.rows())
    assert [there.row(number) for number in (0, 31, 59)] == [here.row(number) for number in (0, 31, 59)]
    assert there.schema() == here.schema()
    plans = [ck.make_plan(SWAP, dataset.index()) for dataset in (here, there)]
    assert plans[0].variant_id == plans[1].variant_id
    made = [ck.write_variant(d, plan, tmp_path / f"out{d is here}", "webdataset") for d, plan in zip((here, there), plans, strict=True)]
    assert [shard.sha256 for shard in made[0].shards] == [shard.sha256 for shard in made[1].shards]


def test_side_cars_cost_few_bytes(tmp_path: Path) -> None:
    write_fetched(tmp_path / "src", make_rows(200), 60_000)
    size = sum(path.stat().st_size for path in (tmp_path / "src").iterdir())
    with serve_folder(tmp_path / "src") as web:
        dataset = ck.open_dataset(web.url + "/shard-{00000..00001}.tar")
        made = ck.write_variant(dataset, ck.make_plan(SWAP, dataset.index()), tmp_path / "out")
        assert made.counts.rows == 200
        assert 0 < web.total < size * 0.01


def spoil_counts(tar: Path) -> None:
    tar.with_name(f"{tar.stem}_stats.json").write_text('{"successes": 7}', "utf-8")


def spoil_captions(tar: Path) -> None:
    table = pq.read_table(tar.with_suffix(".parquet"))
    other = pa.array(["another"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("caption"), "caption", other), tar.with_suffix(".parquet"))


def spoil_schema(tar: Path) -> None:
    pq.write_table(pq.read_table(tar.with_suffix(".parquet")).drop_columns("status"), tar.with_suffix(".parquet"))


def spoil_bytes(tar: Path) -> None:
    tar.with_suffix(".parquet").write_bytes(b"no Parquet")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_counts, "lists 10 samples, and shard-00000_stats.json counts 7"),
        (spoil_captions, "does not list the tar's first sample as it is"),
        (spoil_schema, "has no key, status and caption as text"),
        (spoil_bytes, "cannot be read"),
    ],
)
def test_side_car_that_proves_nothing_is_named(tmp_path: Path, serve: Serve, spoil: object, said: str) -> None:
    write_fetched(tmp_path / "src", make_rows(20), 90)
    spoil(tmp_path / "src" / "shard-00000.tar")  # type: ignore[operator]
    there = ck.open_dataset(serve("http", tmp_path / "src"))
    with pytest.warns(TransferWarning, match=f"shard-00000.tar: read from end to end: shard-00000.parquet beside it {said}"):
        found = there.index().meta.fingerprint
    assert found == ck.open_dataset(tmp_path / "src").index().meta.fingerprint


def test_side_car_that_lies_is_found_when_edited_rows_are_read(tmp_path: Path, serve: Serve) -> None:
    write_fetched(tmp_path / "src", make_rows(20), 90)
    path = tmp_path / "src" / "shard-00001.parquet"
    lines = pq.read_table(path).to_pylist()
    next(line for line in lines if line["key"] == "000000019")["caption"] = "what the tar does not hold"
    pq.write_table(pa.Table.from_pylist(lines), path)
    variant = ck.open_dataset(serve("http", tmp_path / "src")).with_recipe(ck.Recipe(seed=0, chain=[ck.Swap(ratio="1")]))
    for read in (lambda: list(variant.rows()), lambda: list(variant.to_webdataset()), lambda: variant.row(19)):
        with pytest.raises(DatasetError, match=r"shard-00001.tar, 000000019: found the caption 'a photo of thing 19'"):
            read()


def test_side_car_of_a_sample_that_is_not_there(tmp_path: Path, serve: Serve) -> None:
    write_fetched(tmp_path / "src", make_rows(20), 90)
    tar = tmp_path / "src" / "shard-00001.tar"
    write_fetched(tmp_path / "other", make_rows(19), 90)
    (tmp_path / "other" / "shard-00001.tar").replace(tar)
    dataset = ck.open_dataset(serve("http", tmp_path / "src"))
    assert len(dataset) == 20
    for read in (lambda: dataset.row(19), lambda: list(dataset.with_recipe(ck.Recipe(seed=0, chain=[ck.Swap(ratio="1")])).rows())):
        with pytest.raises(DatasetError, match=r"shard-00001.tar, 000000019: found the sample is not there"):
            read()


def test_end_to_end_reading_is_announced(tmp_path: Path, serve: Serve) -> None:
    there = ck.open_dataset(serve("http", write_shards(tmp_path / "src", make_rows(20))))
    with pytest.warns(TransferWarning, match="2 tars of [0-9,]+ bytes in all have no side-car: they are read once"):
        there.index()
