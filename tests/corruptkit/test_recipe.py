"""Recipes: what files may say, what a person reads when they say it wrong, and that an identity gives the recipe back."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.corruptions import Flip, Swap
from corruptkit.digest import sha256_hex
from corruptkit.errors import CatalogError, IntegrityError
from corruptkit.recipe import Recipe, load_recipe, parse_recipe, recipe_from_identity
from tests.corruptkit import oracle
from tests.corruptkit.strategies import examples, recipes, sources

FLIP = 'seed = 0\n[[chain]]\nkind = "flip"\n'
SWAP = 'seed = 0\n[[chain]]\nkind = "swap"\n'


def read_text(text: str, folder: Path) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def lines_of(text: str, folder: Path) -> list[str]:
    """The lines that a person reads about a recipe file, its folder left out; each of them names the file first."""
    with pytest.raises(CatalogError) as caught:
        read_text(text, folder)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.problems), "one line for each thing that is wrong"
    assert all(line.startswith(f"{folder}/recipe.toml") for line in lines)
    return [line.replace(f"{folder}/", "") for line in lines]


# Files that are right


def test_numbers_are_read_as_decimals_and_defaults_written_out(tmp_path: Path) -> None:
    text = "seed = 18446744073709551616\n[[chain]]\nkind = 'flip'\nratio = 0.30000000000000001\n[[chain]]\nkind = 'swap'\nratio = 5e-2\n"
    recipe = read_text(text, tmp_path)
    assert recipe.identity() == {
        "seed": "18446744073709551616",
        "chain": [
            {"kind": "flip", "mode": "uniform", "ratio": "0.30000000000000001", "of": "all", "where": None},
            {"kind": "swap", "mode": "any", "ratio": "0.05", "of": "all", "where": None},
        ],
    }


def test_paths_are_relative_to_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tables").mkdir()
    for name, content in (
        ("groups.json", "[[5, 6], [2, 0, 1]]"),
        ("matrix.csv", "0,1\n2.50,\n"),
        ("matrix.json", '[[9, 1], ["2.5", 0]]'),
        ("keys.txt", "é\nb\na\nb\n"),
    ):
        (tmp_path / "tables" / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir("/")
    text = FLIP + 'ratio = 1\nmode = "within"\ngroups = "tables/groups.json"\nwhere = { keys_file = "tables/keys.txt" }\n'
    recipe = read_text(text, tmp_path)
    assert recipe.inputs() == [b"[[0,1,2],[5,6]]", "a\nb\né\n".encode()]
    where = {"keys_file": sha256_hex(recipe.inputs()[1])}
    entry = {"kind": "flip", "mode": "within", "ratio": "1", "of": "all", "where": where, "groups": sha256_hex(recipe.inputs()[0])}
    assert recipe.identity()["chain"] == [entry]
    tables = [
        read_text(FLIP + f'ratio = 1\nmode = "matrix"\nmatrix = "tables/matrix.{form}"\n', tmp_path).inputs() for form in ("csv", "json")
    ]
    assert tables[0] == tables[1] == [b'[["0","1"],["2.5","0"]]']


def test_where_holds_the_given_fields_only(tmp_path: Path) -> None:
    recipe = read_text(SWAP + "ratio = 1\n[chain.where]\nclasses = [3, 1, 3]\nmax_words = 4\n", tmp_path)
    assert recipe.identity()["chain"][0]["where"] == {"classes": [1, 3], "max_words": 4}


def test_empty_where_is_no_where(tmp_path: Path) -> None:
    assert read_text(SWAP + "ratio = 1\nwhere = {}\n", tmp_path) == Recipe(seed=0, chain=[Swap(ratio=1)])


def test_names_of_stages_tell_them_apart() -> None:
    recipe = Recipe(seed="07", chain=[Flip(ratio=0), Swap(ratio=0), Flip(ratio=0), *[Swap(ratio=0)] * 253])
    assert [recipe.stage_draws(stage).name for stage in (0, 1, 2, 255)] == ["flip", "swap@1", "flip@2", "swap@255"]
    assert recipe.stage_draws(3).seed == "7"


def test_epoch_is_another_seed_text() -> None:
    recipe = Recipe(seed=3, chain=[Flip(ratio="0.1")])
    assert recipe.in_epoch(12) == Recipe(seed="3.e12", chain=recipe.chain)
    assert Recipe(seed="03.e012", chain=recipe.chain) == recipe.in_epoch(12)


@pytest.mark.parametrize("epoch", [-1, True, 1.0, "1", None])
def test_epoch_that_is_none_is_refused(epoch: Any) -> None:
    with pytest.raises(CatalogError, match=r"epoch: found .*, expected a non-negative integer"):
        Recipe(seed=3, chain=[Flip(ratio="0.1")]).in_epoch(epoch)


def test_epoch_of_an_epoch_is_refused() -> None:
    recipe = Recipe(seed=3, chain=[Flip(ratio="0.1")]).in_epoch(1)
    with pytest.raises(CatalogError, match=r"epoch: found the seed '3\.e1', expected one without an epoch"):
        recipe.in_epoch(2)


@pytest.mark.parametrize("seed", [0, 2**64, 10**4000], ids=["0", "2^64", "10^4000"])
def test_seed_of_any_size_is_read_as_integer_or_text(seed: int, tmp_path: Path) -> None:
    recipes = [read_text(f'seed = {spelt}\n[[chain]]\nkind = "flip"\nratio = 0\n', tmp_path) for spelt in (seed, f'"{seed}"')]
    assert recipes[0] == recipes[1] == Recipe(seed=seed, chain=[Flip(ratio=0)])
    assert recipes[0].seed == str(seed)


# Files that are wrong


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "",
            ["recipe.toml, seed: a required field is missing; state seed", "recipe.toml, chain: a required field is missing; state chain"],
        ),
        (
            "seed = 0\nchian = []\n",
            [
                "recipe.toml, chain: a required field is missing; state chain",
                "recipe.toml, chian: unknown field 'chian'; did you mean 'chain'?",
            ],
        ),
        ('seed = 0\n[[chain]]\nkind = "flop"\n', ["recipe.toml, chain.0: unknown kind 'flop'; did you mean 'flip'?"]),
        (
            'seed = 0\n[[chain]]\nkind = "blur"\n',
            ["recipe.toml, chain.0: unknown kind 'blur'; valid are: constant, drop, flip, rewrite, swap, words"],
        ),
        ("seed = 0\n[[chain]]\nratio = 1\n", ["recipe.toml, chain.0: a required field is missing; state kind"]),
        (FLIP, ["recipe.toml, chain.0.flip.ratio: a required field is missing; state chain.0.flip.ratio"]),
        (FLIP + "ratio = 1\nraito = 1\n", ["recipe.toml, chain.0.flip.raito: unknown field 'raito'; did you mean 'ratio'?"]),
        (
            SWAP + "ratio = 1\ngroups = [[0, 1]]\n",
            ["recipe.toml, chain.0.swap.groups: unknown field 'groups'; valid are: embeddings, kind, mode, of, ratio, where"],
        ),
        (FLIP + 'ratio = 1\nmode = "unifrm"\n', ["recipe.toml, chain.0.flip.mode: found 'unifrm'; did you mean 'uniform'?"]),
        (SWAP + 'ratio = 1\nmode = "uniform"\n', ["recipe.toml, chain.0.swap.mode: found 'uniform'; valid are: any, far, near, within"]),
        (FLIP + 'ratio = 1\nof = "eligable"\n', ["recipe.toml, chain.0.flip.of: found 'eligable'; did you mean 'eligible'?"]),
        (FLIP + 'ratio = 1\nmode = "within"\n', ["recipe.toml, chain.0.flip: flip mode 'within' needs groups; state groups"]),
        (FLIP + 'ratio = 1\nmode = "matrix"\n', ["recipe.toml, chain.0.flip: flip mode 'matrix' needs matrix; state matrix"]),
        (
            FLIP + "ratio = 1\ngroups = [[0, 1]]\n",
            ["recipe.toml, chain.0.flip: flip mode 'uniform' takes no groups; leave them out or state mode 'within'"],
        ),
        (
            FLIP + 'ratio = 1\nmode = "within"\ngroups = [[0, 1], [2, 1]]\n',
            ["recipe.toml, chain.0.flip.groups: class 1 is in two groups, expected each class in one at most; mend the value"],
        ),
        (
            FLIP + "ratio = 1\nwhere = { clases = [1] }\n",
            ["recipe.toml, chain.0.flip.where.clases: unknown field 'clases'; did you mean 'classes'?"],
        ),
        (
            'seed = -1\n[[chain]]\nkind = "flip"\nratio = "5%"\n[[chain]]\nkind = "swap"\nratio = 0\nof = "any"\n',
            [
                "recipe.toml, seed: found -1, expected a seed: a non-negative integer; mend the value",
                "recipe.toml, chain.0.flip.ratio: found '5%', expected a decimal number such as 0.05; mend the value",
                "recipe.toml, chain.1.swap.of: found 'any'; valid are: all, eligible",
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_mistake_is_one_line_that_says_where_what_and_what_to_do(text: str, lines: list[str], tmp_path: Path) -> None:
    assert lines_of(text, tmp_path) == lines


BAD_RATIOS = [
    '"5%"',
    "nan",
    "inf",
    "-0.1",
    "-0.0",
    "1.1",
    "2",
    '"1.0000000000000000000000000000001"',
    "true",
    '"٠.٥"',
    '"½"',
    '"0,05"',
    '"1_0"',
    '"+0.5"',
    '"."',
    '""',
    '"e1"',
    '"1e"',
    '"1e-4000"',
    '"0x1"',
    '"1/20"',
    "[]",
    "{}",
    "1979-05-27",
]
BAD_SEEDS = ["-1", "1.5", "1e3", '"-1"', "true", '"0x1"', '"1e3"', '""', '" 1"', '"٣"', '"1.e"', '"0.e1.e2"', "nan", "[0]"]


@pytest.mark.parametrize("ratio", BAD_RATIOS)
def test_bad_ratio_is_named(ratio: str, tmp_path: Path) -> None:
    (line,) = lines_of(f"{FLIP}ratio = {ratio}\n", tmp_path)
    assert line.startswith("recipe.toml, chain.0.flip.ratio: found ")
    assert line.endswith((", expected a decimal number such as 0.05; mend the value", ", expected a ratio in [0, 1]; mend the value"))


@pytest.mark.parametrize("seed", BAD_SEEDS)
def test_bad_seed_is_named(seed: str, tmp_path: Path) -> None:
    (line,) = lines_of(f'seed = {seed}\n[[chain]]\nkind = "flip"\nratio = 0\n', tmp_path)
    assert line.startswith("recipe.toml, seed: found ")
    assert line.endswith("expected a seed: a non-negative integer; mend the value")


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("chain = []", "chain: "),
        ("chain = 3", "chain: "),
        ("chain = [3]", "chain.0: "),
        ("[chain]\nkind = 'flip'\nratio = 0", "chain: "),
    ],
)
def test_chain_of_another_shape_is_one_line(field: str, found: str, tmp_path: Path) -> None:
    (line,) = lines_of(f"seed = 0\n{field}\n", tmp_path)
    assert line.startswith(f"recipe.toml, {found}")
    assert "tuple" not in line, "a person writes lists"


@pytest.mark.parametrize(
    ("where", "key", "found"),
    [
        ("{ classes = [0, 1.5] }", "classes.1", "1.5"),
        ('{ classes = ["1"] }', "classes.0", "'1'"),
        ("{ classes = [true] }", "classes.0", "True"),
        ("{ classes = [-1] }", "classes.0", "-1"),
        ("{ classes = 7 }", "classes", "7"),
        ("{ min_words = -3 }", "min_words", "-3"),
        ('{ max_words = "4" }', "max_words", "'4'"),
        ("{ max_words = true }", "max_words", "True"),
        ("{ caption_contains = 12 }", "caption_contains", "12"),
        ('{ caption_contains = "" }', "caption_contains", "''"),
        ("{ keys_file = 8 }", "keys_file", "8"),
    ],
)
def test_bad_field_of_where_is_named_with_what_was_found(where: str, key: str, found: str, tmp_path: Path) -> None:
    (line,) = lines_of(f"{FLIP}ratio = 1\nwhere = {where}\n", tmp_path)
    head, _, text = line.partition(": ")
    assert head == f"recipe.toml, chain.0.flip.where.{key}"
    assert found in text


@pytest.mark.parametrize("where", ['"x"', "3", "[]"])
def test_where_that_is_no_table_is_one_line(where: str, tmp_path: Path) -> None:
    (line,) = lines_of(f"{FLIP}ratio = 1\nwhere = {where}\n", tmp_path)
    assert line.startswith("recipe.toml, chain.0.flip.where: ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory; name a recipe file"),
        (b"\xff", "not a TOML file: "),
        (b"seed = ", "not a TOML file: "),
    ],
)
def test_file_that_cannot_be_read_is_one_line(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CatalogError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


def test_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot be read: Is a directory"):
        load_recipe(tmp_path)


ONES = "1" * 5000  # more digits than Python turns into an integer by itself


@pytest.mark.parametrize("seed", [ONES, f'"{ONES}"'], ids=["integer", "text"])
@pytest.mark.parametrize("ratio", ["0", f'"0.{ONES}"', f"0.{ONES}"], ids=["0", "text", "decimal"])
def test_number_of_thousands_of_digits_is_read_or_refused_in_plain_words(seed: str, ratio: str, tmp_path: Path) -> None:
    text = f'seed = {seed}\n[[chain]]\nkind = "flip"\nratio = {ratio}\n'
    with suppress(CatalogError):
        recipe = read_text(text, tmp_path)
        assert (recipe.seed, recipe.chain[0].ratio) == (ONES, ratio.strip('"'))
        return
    assert "set_int_max_str_digits" not in "".join(lines_of(text, tmp_path)), "Python's own advice is not for people who write recipes"


def test_more_stages_than_a_digest_has_numbers_for_are_refused(tmp_path: Path) -> None:
    stage = '[[chain]]\nkind = "flip"\nratio = 0\n'
    assert len(read_text("seed = 0\n" + stage * 256, tmp_path).chain) == 256
    (line,) = lines_of("seed = 0\n" + stage * 257, tmp_path)
    assert "256" in line


# Identities


@examples(150)
@given(st.data())
def test_identity_and_inputs_give_the_recipe_back(data: st.DataObject) -> None:
    rows, classes = data.draw(sources())
    table = data.draw(recipes(rows, classes))
    recipe = parse_recipe(table, "test")
    assert recipe.identity() == {"seed": table["seed"], "chain": [oracle.canonical_stage(stage) for stage in table["chain"]]}
    inputs = {sha256_hex(content): content for content in recipe.inputs()}
    given = [stage.embeddings for stage in recipe.chain if isinstance(stage, Swap) and stage.embeddings is not None]
    inputs |= {embeddings.digest: embeddings for embeddings in given}
    assert recipe_from_identity(json.loads(json.dumps(recipe.identity())), inputs, "test") == recipe


@pytest.mark.parametrize("keys", [["a\u2028b", "c"], ["\u2029", "x"], [" a", "a "], ["\u00e9", "e\u0301"], []])
def test_keys_of_any_characters_come_back_from_an_identity(keys: list[str]) -> None:
    recipe = Recipe(seed=0, chain=[Flip(ratio=1, where={"keys_file": keys})])
    inputs = {sha256_hex(content): content for content in recipe.inputs()}
    assert recipe_from_identity(recipe.identity(), inputs, "test") == recipe


def test_identity_without_its_inputs_is_refused() -> None:
    recipe = Recipe(seed=0, chain=[Flip(ratio=1, mode="within", groups=[[0, 1]])])
    with pytest.raises(IntegrityError, match=r"the recipe's groups .* is missing, expected its content under \.corruptkit/inputs"):
        recipe_from_identity(recipe.identity(), {}, "manifest.json")


def test_identity_of_another_recipe_is_refused_as_a_recipe() -> None:
    with pytest.raises(CatalogError, match=r"manifest\.json, chain\.0: unknown kind 'blur'"):
        recipe_from_identity({"seed": "0", "chain": [{"kind": "blur"}]}, {}, "manifest.json")


@pytest.mark.parametrize("change", [{"seed": 1}, {"chain": [Swap(ratio="0.1")]}, {"chain": [Flip(ratio="0.1"), Flip(ratio="0.1")]}])
def test_identity_tells_recipes_apart(change: dict[str, Any]) -> None:
    base: dict[str, Any] = {"seed": 0, "chain": [Flip(ratio=Decimal("0.1"))]}
    assert Recipe(**base).identity() != Recipe(**(base | change)).identity()
