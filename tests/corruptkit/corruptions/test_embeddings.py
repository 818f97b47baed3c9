"""Embeddings: how they become integers, and what is refused as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import corruptkit as ck
from corruptkit.cli import main
from corruptkit.corruptions.embeddings import quantise_vectors, read_embeddings
from tests.corruptkit import oracle
from tests.corruptkit.shards import make_rows, write_shards
from tests.corruptkit.strategies import examples, index_rows

NUMBERS = st.one_of(
    st.integers(-9, 9).map(float), st.floats(-1, 1, width=32), st.floats(allow_nan=False, allow_infinity=False), st.just(5e-324)
)


@examples(400)
@given(st.lists(NUMBERS, min_size=1, max_size=9).filter(any))
def test_integers_are_those_of_the_oracle(vector: list[float]) -> None:
    found = quantise_vectors(np.array([vector])).tolist()[0]
    assert found == oracle.quantise_vector(vector)
    assert all(-127 <= n <= 127 for n in found)


@examples(100)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=64).filter(any), st.sampled_from([2.0, 0.5, 1024.0]))
def test_length_of_a_vector_is_nothing(vector: list[int], factor: float) -> None:
    """Powers of two, by which binary64 multiplies exactly."""
    one, other = np.array([vector], np.float64), np.array([vector]) * factor
    assert quantise_vectors(one).tolist() == quantise_vectors(other).tolist()


def test_integers_keep_the_angles() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 384))
    whole = quantise_vectors(vectors).astype(np.float64)
    assert abs(np.sqrt((whole**2).mean(axis=1)) - 32).max() < 0.5, "what is cut off at 127 is little"
    unit, again = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors, whole))
    assert abs(unit @ unit.T - again @ again.T).max() < 0.01


def table_of(keys: Any, vectors: list[Any], kind: pa.DataType | None = None) -> pa.Table:
    return pa.table({"key": keys, "embedding": pa.array(vectors, kind or pa.list_(pa.float32()))})


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16(), 2), pa.list_(pa.int8())])
def test_types_of_numbers_and_order_of_rows_are_nothing(kind: pa.DataType, tmp_path: Path) -> None:
    vectors = [[1, -2], [3, 0], [0, 5]]
    expected = read_embeddings(table_of(["a", "b", "c"], vectors))
    if "halffloat" in str(kind):
        vectors = [[np.float16(n) for n in vector] for vector in vectors]
    pq.write_table(table_of(["c", "a", "b"], [vectors[2], *vectors[:2]], kind).append_column("more", [[1, 2, 3]]), tmp_path / "e.parquet")
    found = read_embeddings(tmp_path / "e.parquet")
    assert found == expected
    assert found.keys.to_pylist() == ["a", "b", "c"]
    assert found.vectors.tolist() == [oracle.quantise_vector(vector) for vector in ([1, -2], [3, 0], [0, 5])]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (table_of(["a", "a"], [[1], [2]]), "key 'a' stands twice in the embeddings, expected each key once"),
        (table_of(["a", None], [[1], [2]]), "a row of embeddings without a key"),
        (table_of(["a", "b"], [[1, 2], [2]]), "row 1 of the embeddings is no vector, expected 2 finite numbers"),
        (table_of(["a", "b"], [[1, 2], None]), "row 1 of"),
        (table_of(["a", "b"], [[1, 2], [2, None]]), "row 1 of"),
        (table_of(["a", "b"], [[0, 0], [2, 1]]), "row 0 of"),
        (table_of(["a", "b"], [[1, 0], [float("nan"), 1]]), "row 1 of"),
        (table_of(["a", "b"], [[1, 0], [float("inf"), 1]]), "row 1 of"),
        (table_of(["a"], [[]]), "row 0 of the embeddings is no vector, expected some finite numbers"),
        (table_of(pa.array([], pa.string()), []), "hold no row"),
        (table_of(["a"], ["x"], pa.string()), "a column 'embedding' of string"),
        (table_of(["a"], [["x"]], pa.list_(pa.string())), "a column 'embedding' of list"),
        (table_of([1], [[1]]), "a column 'key' of int64"),
        (pa.table({"key": ["a"]}), "no column 'embedding'"),
    ],
)
def test_what_is_no_embedding_is_refused(table: pa.Table, said: str, tmp_path: Path) -> None:
    pq.write_table(table, tmp_path / "e.parquet")
    for source in (tmp_path / "e.parquet", table):
        with pytest.raises(ValueError, match=said):
            read_embeddings(source)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(b"PAR1 but not really PAR1")
    for path, said in ((tmp_path / "e.parquet", "name a Parquet file"), (tmp_path / "none.parquet", "No such file or directory")):
        with pytest.raises(ValueError, match=said):
            read_embeddings(path)


def test_key_is_counted_over_batches() -> None:
    """A bad row far into the file is told by its number there."""
    vectors = [[1.0, 2.0]] * 20_000
    vectors[17_345] = [0.0, 0.0]
    with pytest.raises(ValueError, match="row 17345 of the embeddings"):
        read_embeddings(table_of([f"{n}" for n in range(20_000)], vectors))


@pytest.mark.parametrize("form", ["webdataset", "overlay"])
def test_far_swap_is_made_verified_and_materialised(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_rows(50, captions=50)
    write_shards(tmp_path / "source", rows)
    file, out = str(tmp_path / "e.parquet"), str(tmp_path / "out")
    pq.write_table(table_of([row.key for row in rows], [[n % 7 - 3, n % 5, 1] for n in range(50)]), file)
    words = ["make", "--source", str(tmp_path / "source"), "--swap", "0.4", "--mode", "far", "--format", form, "--out", out]
    assert main([*words, "--embeddings", file]) == 0
    assert main(["verify", out, "--embeddings", file]) == 0
    assert main(["verify", out]) == 1
    assert "known by name alone, expected their file; state --embeddings FILE" in capsys.readouterr().out
    assert main(["show", out, "--counts"]) == 0
    assert main(["verify", out, "--embeddings", str(tmp_path / "none")]) == 1
    edited = {row["key"]: row["caption"] for row in ck.open_dataset(out).rows()}
    recipe = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.4", mode="far", embeddings=file)])
    plan = ck.make_plan(recipe, index_rows(rows))
    assert {key for key, caption in edited.items() if caption != next(r.caption for r in rows if r.key == key)} == set(
        plan.edits["key"].to_pylist()
    )
    if form == "overlay":
        assert main(["make", "--from", out, "--out", str(tmp_path / "shards"), "--embeddings", file]) == 0
        assert main(["make", "--from", out, "--out", str(tmp_path / "more")]) == 2
        assert not (tmp_path / "more").exists()
    else:
        assert main(["restore", out, "--out", str(tmp_path / "again")]) == 0
