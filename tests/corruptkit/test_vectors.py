"""Every vector of SPEC.md section 6, read from that page: through an independent oracle, the Python API and the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corruptkit.cli import main
from corruptkit.corruptions.embeddings import quantise_vectors, read_embeddings
from corruptkit.corruptions.fields import CANONICAL
from corruptkit.digest import sha256_hex
from corruptkit.draws import Draws, hash_keys, hash_text
from corruptkit.index import Index
from corruptkit.opening import open_dataset
from corruptkit.plan import Plan, make_plan
from corruptkit.recipe import Recipe, parse_recipe
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row, read_variant, write_shards
from tests.corruptkit.strategies import index_rows, oracle_rows

pytestmark = pytest.mark.xdist_group("vectors")  # one process writes the 10,000 rows

SPEC = (Path(__file__).parents[2] / "SPEC.md").read_text(encoding="utf-8")
COUNT = 10_000
CLASSES = 10
Json = dict[str, Any]
EMBEDDINGS = {f"{i:09d}": [i * (j + 3) % 11 - 5 for j in range(8)] for i in range(COUNT)}


class Vector(NamedTuple):
    """A line of the table that states edits and a plan_digest: the recipe and the source that its words ask for."""

    what: str
    edits: int
    digest: str
    recipe: Json
    source: str  # "plain", "skewed" or "captions": a fixture's key


# The page, read


def read_table() -> dict[str, str]:
    section = SPEC.split("\n## 6. Vectors\n")[1].split("\n## ")[0]
    cells = [re.fullmatch(r"\| (.*) \| (.*) \|", line) for line in section.splitlines()]
    return {cell[1]: cell[2] for cell in cells if cell and cell[1] != "what"}


def read_groups(what: str) -> list[list[int]]:
    return [json.loads(f"[{group}]") for group in re.findall(r"\{([0-9,]+)\}", what)]


def read_captions(what: str) -> list[str]:
    """The quoted texts; where code points stand beside one, they are the text (an editor may have composed what stands there)."""
    found = re.findall(r'"([^"]*)"(?: \((U\+[0-9A-FU+ ]*)\))?', what)
    return ["".join(chr(int(point, 16)) for point in re.findall(r"U\+([0-9A-F]+)", points)) or text for text, points in found]


def read_texts(what: str) -> tuple[int, list[list[Any]]]:
    """Levels and table of words such as "text `text {level} of {key}` for levels 1 to 5"."""
    found = re.search(r"text `([^`]*)` for levels 1 to ([0-9])", what)
    assert found, what
    form, levels = found[1].replace("i mod (200 level)", "number"), int(found[2])
    cells = [(i, level) for i in range(COUNT) for level in range(1, levels + 1)]
    return levels, [[f"{i:09d}", level, form.format(level=level, key=f"{i:09d}", number=i % (200 * level))] for i, level in cells]


def read_constant(what: str, mode: str) -> Json:
    """Text and names of words such as `text "a photo of a {}", names "class 0" to "class 9"`."""
    text = {"text": re.search(r', text "([^"]*)"', what)[1]}  # type: ignore[index]
    if mode != "template":
        return text
    assert 'names "class 0" to "class 9"' in what
    return text | {"names": [f"class {n}" for n in range(CLASSES)]}


def read_recipe(what: str, groups: list[list[int]]) -> Json:
    """The recipe, as an identity spells it, in a line such as "flip within 0.05, of all, groups {0,1,2} and {5,6}"."""
    chain: list[Json] = []
    for kind, mode, ratio in re.findall(r"(flip|swap|drop|constant|words|rewrite) ?([a-z]*) ([0-9.]+)", what):
        chain.append({"kind": kind, "mode": mode or "any", "ratio": ratio, "of": "all", "where": None})
    if found := re.search(r"where classes = (\[.*?\])", what):
        chain[0]["where"] = {"classes": json.loads(found[1])}
    for stage in chain:
        stage["of"] = "eligible" if "of eligible" in what else "all"
        if (stage["kind"], stage["mode"]) == ("flip", "within"):
            stage["groups"] = groups
        elif stage["mode"] in ("far", "near"):
            assert "those embeddings" in what or "number j of row i is (i*(j+3)) mod 11 - 5" in what
            stage["embeddings"] = EMBEDDINGS
        elif stage["kind"] == "words":
            stage["level"] = int(re.search(r", level ([1-5])", what)[1])  # type: ignore[index]
        elif stage["kind"] == "constant":
            stage.update(read_constant(what, stage["mode"]))
        elif stage["kind"] == "rewrite":
            stage["levels"], stage["table"] = read_texts(what)
        elif stage["mode"] == "matrix":
            assert "weight (y*j) mod 4, row 9 all 0" in what
            stage["matrix"] = [[str(y * j % 4 if y not in (9, j) else 0) for j in range(CLASSES)] for y in range(CLASSES)]
    seed = re.search(r"seed (?:text )?([0-9]+(?:\.e[0-9]+)?)", what)
    return {"seed": seed[1] if seed else "0", "chain": chain}


def read_vectors() -> list[Vector]:
    vectors, groups, subject = [], list[list[int]](), ""
    for what, value in TABLE.items():
        if not (found := re.fullmatch(r"([0-9]+), ([0-9a-f]{64})", value)):
            continue
        groups = read_groups(what) or groups
        subject = what.replace("the same", subject.partition(",")[0])
        source = "skewed" if "labels min(i mod 13, 9)" in what else "captions" if "captions i mod 10 of" in what else "plain"
        vectors.append(Vector(what, int(found[1]), found[2], read_recipe(subject, groups), source))
    return vectors


TABLE = read_table()
VECTORS = read_vectors()
REWRITE = "rewrite table 0.05, text `text {level} of {key}` for levels 1 to 5"
BY_NAME = {vector.what: vector for vector in VECTORS}
FORMS = {"matrix": ("json", "csv"), "table": ("jsonl", "parquet")}
FLAGS = [
    pytest.param(vector, form, id=f"{vector.what}-{form}")
    for vector in VECTORS
    if len(vector.recipe["chain"]) == 1 and not vector.recipe["chain"][0]["where"] and "epoch" not in vector.what
    for form in FORMS.get(vector.recipe["chain"][0]["mode"], ("json",))
]


def value_of(start: str) -> str:
    """The value of the one line that begins so."""
    found = [value for what, value in TABLE.items() if what.startswith(start)]
    assert len(found) == 1, f"{len(found)} lines begin with {start!r}"
    return found[0]


def make_source(name: str) -> list[Row]:
    skewed, said = name == "skewed", read_captions(next(what for what in TABLE if "captions i mod 10 of" in what))
    assert len(said) == 10
    return [
        Row(f"{i:09d}", min(i % 13, 9) if skewed else i % 10, said[i % 10] if name == "captions" else f"a photo of thing {i % 997}")
        for i in range(COUNT)
    ]


@pytest.fixture(scope="session")
def sources() -> dict[str, list[Row]]:
    return {name: make_source(name) for name in ("plain", "skewed", "captions")}


@pytest.fixture(scope="session")
def indexes(sources: dict[str, list[Row]]) -> dict[str, Index]:
    return {name: index_rows(rows, classes=CLASSES, shards=3) for name, rows in sources.items()}


@pytest.fixture(scope="session")
def folders(sources: dict[str, list[Row]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The rows as tars: all four members for the plain ones, conditions alone for the others."""
    place = tmp_path_factory.mktemp("vectors")
    members = {"plain": ("png", "txt", "cls", "json"), "skewed": ("cls", "txt"), "captions": ("json",)}
    return {name: write_shards(place / name, rows, shards=3, members=members[name]) for name, rows in sources.items()}


def test_every_line_of_the_table_has_a_test() -> None:
    singles = ["h(", "draw, flip, rank", "draw, flip, target", "fingerprint, labels and", "fingerprint, labels only", "canonical groups"]
    singles += ["canonical names", "embeddings, those", "the numbers of a vector"]
    singles += ["draw, rewrite, level", "canonical table of that", "canonical table of (", *read_ids()]
    lines = SPEC.split("\n## 6. Vectors\n")[1].split("\n## ")[0].count("\n| ")
    assert len(TABLE) == len(VECTORS) + len({value_of(start) for start in singles}) == lines - 1 >= 29, "the header is no vector"
    assert len({json.dumps([vector.recipe, vector.source]) for vector in VECTORS}) == len(VECTORS), "two lines were read as one recipe"


# Draws and digests


def test_hash_and_draws_are_those_of_the_page() -> None:
    key, hashes = "000000000", hash_keys([b"000000000"])
    assert hash_text(key) == oracle.h(key) == int(value_of(f'h("{key}")'), 16)
    for kind, purpose in (("flip", "rank"), ("flip", "target"), ("rewrite", "level")):
        expected = int(value_of(f'draw, {kind}, {purpose}, "{key}"'), 16)
        assert Draws("0", kind).of(purpose, hashes).tolist() == [oracle.draw("0", kind, 0, purpose, key)] == [expected]


def test_fingerprints_are_those_of_the_page(sources: dict[str, list[Row]]) -> None:
    bare = [row._replace(caption=None) for row in sources["plain"]]
    for rows, start in ((sources["plain"], "fingerprint, labels and captions"), (bare, "fingerprint, labels only")):
        assert index_rows(rows, classes=CLASSES).meta.fingerprint == oracle.fingerprint(oracle_rows(rows)) == value_of(start)


def test_canonical_groups_have_the_digest_of_the_page() -> None:
    groups = BY_NAME["flip within 0.05, of all, groups {0,1,2} and {5,6}"].recipe["chain"][0]["groups"]
    recipe = parse_recipe({"seed": 0, "chain": [{"kind": "flip", "mode": "within", "ratio": "1", "groups": groups[::-1]}]}, "test")
    assert recipe.inputs() == [CANONICAL["groups"](groups)] == [b"[[0,1,2],[5,6]]"]
    assert sha256_hex(recipe.inputs()[0]) == value_of("canonical groups `[[0,1,2],[5,6]]`, SHA-256")


def test_canonical_names_have_the_digest_of_the_page() -> None:
    recipe = parse_recipe(BY_NAME['constant template 0.05, text "a photo of a {}", names "class 0" to "class 9"'].recipe, "test")
    assert recipe.inputs() == [CANONICAL["names"]([f"class {n}" for n in range(CLASSES)])]
    assert sha256_hex(recipe.inputs()[0]) == value_of("canonical names")


def test_embeddings_have_the_digest_of_the_page(tmp_path: Path) -> None:
    assert value_of("embeddings, those, SHA-256") == read_embeddings(write_embeddings(tmp_path, EMBEDDINGS)).digest


def test_vector_has_the_integers_of_the_page() -> None:
    expected = [int(number) for number in value_of("the numbers of a vector (1, 0.001, -0.5, 0)").split(", ")]
    assert quantise_vectors(np.array([[1, 0.001, -0.5, 0]])).tolist() == [oracle.quantise_vector([1, 0.001, -0.5, 0])] == [expected]


def test_canonical_tables_have_the_digests_of_the_page() -> None:
    recipe = parse_recipe(BY_NAME[REWRITE].recipe, "test")
    assert sha256_hex(recipe.inputs()[0]) == value_of("canonical table of that")
    odd = [["000000001", 2, "\u00e9"], ["000000000", 1, 'a "red" \\ thing\n\x7f\x01']]
    (content,) = parse_recipe({"seed": 0, "chain": [{"kind": "rewrite", "ratio": "1", "table": odd}]}, "test").inputs()
    assert content == oracle.canonical_json(odd[::-1])
    assert sha256_hex(content) == value_of("canonical table of (")


# Plans


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.what)
def test_oracle_gives_the_vector(vector: Vector, sources: dict[str, list[Row]]) -> None:
    edits = oracle.plan_edits(vector.recipe, oracle_rows(sources[vector.source]), CLASSES)
    assert (len(edits), oracle.plan_digest(edits)) == (vector.edits, vector.digest)


def plan_vector(vector: Vector, index: Index) -> Plan:
    return make_plan(parse_recipe(vector.recipe, vector.what), index)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.what)
def test_api_gives_the_vector(vector: Vector, indexes: dict[str, Index]) -> None:
    plan = plan_vector(vector, indexes[vector.source])
    assert (plan.identity["edits"], plan.identity["plan_digest"]) == (vector.edits, vector.digest)
    assert sum(stage.edits for stage in plan.counts().stages) == vector.edits


def test_epoch_gives_the_vector(folders: dict[str, Path], indexes: dict[str, Index]) -> None:
    vector = BY_NAME["flip uniform 0.05 re-drawn in epoch 1 (seed text 0.e1)"]
    recipe = parse_recipe(vector.recipe | {"seed": 0}, "test")
    plan = make_plan(recipe.in_epoch(1), indexes["plain"])
    assert (plan.edits.num_rows, plan.identity["plan_digest"]) == (vector.edits, vector.digest)
    read = open_dataset(folders["plain"], classes=CLASSES).with_recipe(recipe, epoch=1)
    assert read.edits is not None
    assert read.edits.equals(plan.composed)


def test_two_flips_leave_as_many_rows_changed_as_the_page_says(indexes: dict[str, Index]) -> None:
    vector = next(vector for vector in VECTORS if "differ in the end" in vector.what)
    said = re.search(r"\(([0-9,]+) rows differ in the end\)", vector.what)
    assert said is not None
    plan = plan_vector(vector, indexes["plain"])
    assert plan.counts().changed == plan.composed.num_rows == int(said[1].replace(",", ""))
    assert plan.counts().effective_ratio == f"{plan.counts().changed / COUNT:.9f}"


def test_cap_of_the_page_bites_and_is_reported(indexes: dict[str, Index]) -> None:
    (problem,) = plan_vector(BY_NAME["flip within 0.9, of all (capped)"], indexes["plain"]).shortfalls
    assert "only 5000 rows are eligible, expected 9000" in str(problem)


# Variant ids


def read_ids() -> dict[str, tuple[str, Vector]]:
    """What the page calls a recipe, to the id and the vector of that recipe."""
    names = {
        "variant_id of flip uniform 0.05 on": "flip uniform 0.05",
        "variant_id of flip within 0.05": "flip within 0.05, of all, groups {0,1,2} and {5,6}",
        "variant_id of flip uniform 0.05 where": "flip uniform 0.05 where classes = [1, 3]",
        "variant_id of drop label 0.05": "drop label 0.05",
        "variant_id of swap far 0.05": "swap far 0.05, embeddings of 8 numbers, number j of row i is (i*(j+3)) mod 11 - 5",
        "variant_id of words mixed 0.05": "words mixed 0.05, level 1",
        "variant_id of constant template 0.05": 'constant template 0.05, text "a photo of a {}", names "class 0" to "class 9"',
        "variant_id of rewrite table 0.05": REWRITE,
    }
    return {start: (value_of(start), BY_NAME[name]) for start, name in names.items()}


@pytest.mark.parametrize("start", read_ids())
def test_variant_id_is_that_of_the_page(start: str, sources: dict[str, list[Row]], indexes: dict[str, Index]) -> None:
    expected, vector = read_ids()[start]
    assert plan_vector(vector, indexes["plain"]).variant_id == expected
    assert oracle.variant_id(oracle.identity(vector.recipe, oracle_rows(sources["plain"]), CLASSES)) == expected


def test_recipe_in_an_identity_is_spelt_as_on_the_page() -> None:
    spelt = re.search(r"its recipe is `(.*?)`", SPEC)
    assert spelt is not None
    recipe = Recipe(seed=0, chain=[{"kind": "flip", "ratio": 0.05}])
    assert json.dumps(recipe.identity(), sort_keys=True, separators=(",", ":")) == spelt[1]


# The command line


def run_json(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Json:
    assert main([*map(str, words), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def digest_plan(path: Path) -> tuple[int, str]:
    """The number of edits in a plan on disk and their digest by the oracle."""
    columns = [name for name in pq.read_schema(path).names if name != "shard"]
    edits = [oracle.Edit(**line) for line in pq.read_table(path, columns=columns).to_pylist()]
    return len(edits), oracle.plan_digest(edits)


def write_embeddings(folder: Path, vectors: Json) -> Path:
    """The embeddings as Parquet, last row first."""
    table = pa.table({"key": [*vectors], "embedding": pa.array(vectors.values(), pa.list_(pa.float32(), 8))})
    pq.write_table(table[::-1], folder / "embeddings.parquet", row_group_size=3000)
    return folder / "embeddings.parquet"


def write_table(path: Path, rows: list[list[Any]]) -> Path:
    """The rows of a table, last row first, as Parquet or as JSON lines."""
    keys, levels, texts = zip(*rows[::-1], strict=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts, "level": pa.array(levels, pa.int16()), "model": texts, "key": keys}), path)
    else:
        lines = [
            json.dumps({"level": level, "text": text, "key": key, "tries": [1]})
            for key, level, text in zip(keys, levels, texts, strict=True)
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_toml(path: Path, recipe: Json) -> Path:
    """The recipe as a file: JSON's texts, lists and integers are TOML's as well."""
    lines = [f"seed = {recipe['seed']}"]
    for stage in recipe["chain"]:
        said = dict(stage)
        if "embeddings" in stage:  # beside the recipe, named as recipes name files
            said["embeddings"] = write_embeddings(path.parent, stage["embeddings"]).name
        if "table" in stage:
            said["table"] = write_table(path.with_name("texts.parquet"), stage["table"]).name
        lines.append("[[chain]]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in said.items() if name != "where"]
        lines += ["[chain.where]", *(f"{name} = {json.dumps(value)}" for name, value in stage["where"].items())] if stage["where"] else []
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("source", ["plain", "skewed", "captions"])
def test_index_command_gives_the_fingerprint(source: str, folders: dict[str, Path], indexes: dict[str, Index], capsys: Any) -> None:
    found = run_json(capsys, "index", folders[source], "--workers", "1")["index"]
    assert found["fingerprint"] == indexes[source].meta.fingerprint
    assert (found["rows"], found["classes"], found["split"], found["key_rule"]) == (COUNT, CLASSES, "train", "sample")


@pytest.mark.parametrize("vector", [v for v in VECTORS if "epoch" not in v.what], ids=lambda vector: vector.what)
def test_plan_command_gives_the_vector_of_a_recipe_file(vector: Vector, folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", vector.recipe)
    words = ["plan", "--source", folders[vector.source], "--recipe", recipe, "--out", tmp_path / "plan.parquet", "--workers", "1"]
    (made,) = run_json(capsys, *words)["variants"]
    assert digest_plan(tmp_path / "plan.parquet") == (vector.edits, vector.digest)
    assert sum(stage["edits"] for stage in made["counts"]["stages"]) == vector.edits
    assert (made["path"], made["format"]) == (str(tmp_path / "plan.parquet"), "plan")


@pytest.mark.parametrize("kind", ["flip", "swap"])
def test_plan_command_gives_the_vectors_of_a_list_of_ratios(kind: str, folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    pattern = rf"{kind} (uniform )?[0-9.]+( \(half rounds up\))?"
    wanted = [v for v in VECTORS if re.fullmatch(pattern, v.what) and v.source == "plain"]
    assert len(wanted) == (5 if kind == "flip" else 2)
    ratios = ",".join(v.recipe["chain"][0]["ratio"] for v in wanted)
    words = ["plan", "--source", folders["plain"], f"--{kind}", ratios, "--out", tmp_path, "--workers", "1"]
    made = run_json(capsys, *words)["variants"]
    assert [digest_plan(Path(variant["path"])) for variant in made] == [(v.edits, v.digest) for v in wanted]


def flags_of(stage: Json, folder: Path, form: str) -> list[str | Path]:
    """The flags that say what a stage of a chain says; its tables go to files."""
    words: list[str | Path] = [f"--{stage['kind']}", stage["ratio"], "--mode", stage["mode"], "--of", stage["of"]]
    words += ["--text", stage["text"]] if "text" in stage else []
    words += ["--level", str(stage["level"])] if "level" in stage else []
    words += ["--embeddings", write_embeddings(folder, stage["embeddings"])] if "embeddings" in stage else []
    if "table" in stage:
        words += ["--levels", str(stage["levels"]), "--table", write_table(folder / f"texts.{form}", stage["table"])]
    for name in ("groups", "matrix", "names"):
        if name in stage:
            text = json.dumps(stage[name]) if form == "json" else "\n".join(",".join(row) for row in stage[name])
            (folder / f"{name}.{form}").write_text(text, encoding="utf-8")
            words += [f"--{name}", folder / f"{name}.{form}"]
    return words


@pytest.mark.parametrize(("vector", "form"), FLAGS)
def test_plan_command_gives_the_vector_of_flags(vector: Vector, form: str, folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    stage = vector.recipe["chain"][0]
    words = [*flags_of(stage, tmp_path, form), "--seed", vector.recipe["seed"], "--out", tmp_path / "plan.parquet", "--workers", "1"]
    run_json(capsys, "plan", "--source", folders[vector.source], *words)
    assert digest_plan(tmp_path / "plan.parquet") == (vector.edits, vector.digest)


@pytest.mark.parametrize("form", ["webdataset", "overlay"])
@pytest.mark.parametrize("start", read_ids())
def test_make_command_gives_the_variant_id(start: str, form: str, folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    expected, vector = read_ids()[start]
    recipe, out = write_toml(tmp_path / "recipe.toml", vector.recipe), tmp_path / "out"
    words = ["make", "--source", folders["plain"], "--recipe", recipe, "--format", form, "--out", out, "--workers", "1"]
    (made,) = run_json(capsys, *words)["variants"]
    assert (made["variant_id"], made["format"]) == (expected, form)
    identity = json.loads((out / ".corruptkit" / "manifest.json").read_bytes())["identity"]
    assert (identity["edits"], identity["plan_digest"], oracle.variant_id(identity)) == (vector.edits, vector.digest, expected)
    assert digest_plan(out / ".corruptkit" / "plan.parquet") == (vector.edits, vector.digest)
    content = [path.read_bytes() for path in (out / ".corruptkit").glob(f"inputs/{value_of('canonical groups')}")]
    assert content == ([b"[[0,1,2],[5,6]]"] if "groups" in vector.recipe["chain"][0] else [])


def run_command(*words: str | Path) -> Json:
    done = subprocess.run([sys.executable, "-m", "corruptkit", *words, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_commands_in_processes_of_their_own_give_the_vectors(folders: dict[str, Path], tmp_path: Path) -> None:
    vector = BY_NAME["flip prior 0.05, labels min(i mod 13, 9), seed 7"]
    words = ["--source", folders["skewed"], "--flip", "0.050", "--mode", "prior", "--seed", "7"]
    run_command("plan", *words, "--out", tmp_path / "plan.parquet")
    assert digest_plan(tmp_path / "plan.parquet") == (vector.edits, vector.digest)
    (made,) = run_command("make", *words, "--workers", "2", "--out", tmp_path / "a")["variants"]
    run_command("make", *words, "--workers", "1", "--out", tmp_path / "b")
    tree = read_variant(tmp_path / "a")
    assert tree == read_variant(tmp_path / "b")
    assert pa.BufferReader(tree[".corruptkit/plan.parquet"]).read() == (tmp_path / "plan.parquet").read_bytes()
    assert json.loads(tree["manifest"])["variant_id"] == made["variant_id"]
    assert run_command("verify", tmp_path / "a", "--source", folders["skewed"])["verified"] is True
