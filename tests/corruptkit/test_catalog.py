"""The catalog: what ships is sound, and whatever is wrong with any file is said at once."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from corruptkit import catalog
from corruptkit.catalog import load_catalog
from corruptkit.errors import CatalogError
from corruptkit.names import hub_name
from corruptkit.recipe import Recipe

SHIPPED = Path(__file__).parents[2] / "catalog"
SOURCE = """
title = "Shapes"
home = "https://example.org/"
license = "CC0 1.0"
license_url = "https://creativecommons.org/publicdomain/zero/1.0/"
attribution = "none needed"
terms = "none"
key_rule = "sample"
fields = ["label", "caption"]
classes = 3
get = "corruptkit fetch shapes --out data/shapes"
"""
GRID = """
source = "shapes"
[[ladder]]
kind = "swap"
ratios = ["0.05", "0.1"]
seeds = [0, 18446744073709551616]
"""


def write_catalog(folder: Path, files: dict[str, str | bytes]) -> Path:
    """A sound catalog of one source and one grid, and `files` over it."""
    for name, content in ({"sources/shapes.toml": SOURCE, "variants/shapes.toml": GRID} | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def problems_of(folder: Path) -> list[str]:
    """Every problem, its file named from the catalog's folder."""
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def change(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


# What ships


def test_shipped_catalog_is_sound() -> None:
    shipped = load_catalog(SHIPPED)
    assert list(shipped.sources) == sorted(path.stem for path in (SHIPPED / "sources").glob("*.toml"))
    for name, variant in shipped.variants.items():
        assert variant.name == name
        assert variant.source in shipped.sources
        context = {"folder": SHIPPED / "variants"}
        assert variant.recipe() == Recipe.model_validate({"seed": variant.seed, "chain": variant.chain}, context=context)


RATIOS = ("0.025", "0.05", "0.075", "0.1", "0.15", "0.2")
KINDS_OF_OPENMOJI = ("flip-prior", "flip", "swap", "drop", "drop-label", "constant", "constant-template", "swap-within", "words")


@pytest.mark.parametrize(
    ("pattern", "labels", "ratios", "seeds"),
    [
        ("openmoji/*", KINDS_OF_OPENMOJI, RATIOS, (0,)),
        ("imagenet/flip-prior-*", ("flip-prior",), RATIOS, (0, 1, 2)),
        ("imagenet/flip-cifar100-0*", ("flip-cifar100",), RATIOS[:3], (0, 1, 2)),
        ("imagenet/flip-cifar100-eligible-*", ("flip-cifar100-eligible",), RATIOS[:3], (0, 1, 2)),
        ("imagenet100/flip-prior-*", ("flip-prior",), RATIOS, (0, 1, 2)),
        ("cc3m/swap-0.[012]*", ("swap",), RATIOS, (0, 1, 2)),
        ("cc3m/rewrite-*", ("rewrite",), RATIOS, (0, 1, 2)),
        ("cc3m/swap-0.3*", ("swap",), ("0.3",), (0,)),
        ("cc12m/*", ("swap",), RATIOS, (0, 1, 2)),
    ],
)
def test_shipped_grids_have_the_papers_ratios(
    pattern: str, labels: tuple[str, ...], ratios: tuple[str, ...], seeds: tuple[int, ...]
) -> None:
    source = pattern.partition("/")[0]
    names = [f"{source}/{label}-{ratio}-s{seed}" for label in labels for ratio in ratios for seed in seeds]
    assert [variant.name for variant in load_catalog(SHIPPED).match(pattern)] == names


def test_groups_have_a_twin_of_the_eligible_rows() -> None:
    shipped = load_catalog(SHIPPED)
    whole = [variant for variant in shipped.variants.values() if "groups" in variant.chain[0] and "of" not in variant.chain[0]]
    assert len(whole) == 24
    for variant in whole:
        label, ratio, seed = variant.name.rsplit("-", 2)
        twin = shipped.variant(f"{label}-eligible-{ratio}-{seed}")
        assert twin.chain[0] == variant.chain[0] | {"of": "eligible"}


def test_imagenets_groups_are_disjoint_groups_of_its_classes() -> None:
    shipped = load_catalog(SHIPPED)
    for file in sorted((SHIPPED / "variants").glob("*.json")):
        groups = json.loads(file.read_text(encoding="utf-8"))
        members = [member for group in groups for member in group]
        classes = shipped.source(file.name.partition("-")[0]).classes or 0
        assert len(set(members)) == len(members) > classes / 10
        assert min(members) >= 0
        assert max(members) < classes
        assert all(group == sorted(group) for group in groups)
    whole, parts = (
        json.loads((SHIPPED / "variants" / f"imagenet-{name}.json").read_text()) for name in ("cifar100", "cifar100-superclasses")
    )
    assert (len(whole), len(parts)) == (1, 18)
    assert whole[0] == sorted(member for group in parts for member in group)


def test_imagenets_names_are_distinct_whatever_their_case() -> None:
    shipped = load_catalog(SHIPPED)
    names, hundred = shipped.source("imagenet").class_names, shipped.source("imagenet100").class_names
    assert len({name.lower() for name in names}) == len(names) == 1000
    assert (names[0], names[134], names[517], names[999]) == ("tench", "crane (wading bird)", "crane (lifting device)", "toilet tissue")
    assert set(hundred) <= set(names)
    ids = (SHIPPED / "sources" / "imagenet100.txt").read_text().split()
    assert (len(set(ids)), ids) == (100, sorted(ids))


def test_every_name_may_stand_on_the_hub() -> None:
    for name in load_catalog(SHIPPED).variants:
        assert re.fullmatch(r"\w+(\.\w+)*", hub_name(name.partition("/")[2]), re.ASCII)


def test_import_is_light() -> None:
    script = "import sys, corruptkit.catalog; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"pyarrow", "numpy", "polars", "fsspec"} & set(done.stdout.split()) == set()


# Patterns and names


def test_pattern_matches_in_the_order_of_the_catalog(tmp_path: Path) -> None:
    found = load_catalog(write_catalog(tmp_path, {}))
    assert [variant.name for variant in found.match("shapes/*-s0")] == ["shapes/swap-0.05-s0", "shapes/swap-0.1-s0"]
    assert [variant.name for variant in found.match("shapes/swap-0.[!0]-s0")] == ["shapes/swap-0.1-s0"]
    assert [variant.name for variant in found.match("shapes/swap_0.1_s0")] == ["shapes/swap-0.1-s0"], "as the Hub writes it"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("shapes/swop-*", "unknown variant 'shapes/swop-*'; did you mean 'shapes/swap-0.1-s0'?"),
        ("*", "'*' matches variants of 2 sources: circles, shapes, expected variants of one; write circles/..."),
        ("SHAPES/swap-0.05-s0", "unknown variant 'SHAPES/swap-0.05-s0'; did you mean 'shapes/swap-0.05-s0'?"),
    ],
)
def test_pattern_that_is_of_no_use_is_told(tmp_path: Path, pattern: str, said: str) -> None:
    files = {"sources/circles.toml": SOURCE, "variants/circles.toml": change(GRID, '"shapes"', '"circles"')}
    with pytest.raises(CatalogError) as caught:
        load_catalog(write_catalog(tmp_path, files)).match(pattern)
    assert str(caught.value) == f"{tmp_path}: {said}"


def test_template_takes_the_names_of_its_source(tmp_path: Path) -> None:
    stated = 'kind = "constant"\nmode = "template"\ntext = "a {}"'
    files: dict[str, str | bytes] = {"variants/shapes.toml": change(GRID, 'kind = "swap"', stated)}
    assert problems_of(write_catalog(tmp_path, files)) == [
        "variants/shapes.toml, ladder.0.constant: constant mode 'template' needs names; state names"
    ]
    named = files | {"sources/shapes.toml": SOURCE + 'class_names = "shapes.json"\n', "sources/shapes.json": '["a", "b", "c"]'}
    catalog = load_catalog(write_catalog(tmp_path, named))
    assert catalog.source("shapes").class_names == ("a", "b", "c")
    assert catalog.variant("shapes/constant-template-0.1-s0").recipe().chain[0].names == ("a", "b", "c")
    own = files | {"variants/shapes.toml": change(GRID, 'kind = "swap"', stated + '\nnames = ["x", "y", "z"]')}
    assert load_catalog(write_catalog(tmp_path, own)).variant("shapes/constant-template-0.1-s0").recipe().chain[0].names == ("x", "y", "z")


def test_digest_covers_names_of_classes(tmp_path: Path) -> None:
    first = load_catalog(write_catalog(tmp_path, {"sources/names.json": "[]"})).digest
    assert load_catalog(write_catalog(tmp_path, {"sources/names.json": "[1]"})).digest != first


# Which catalog


def test_folder_goes_before_environment_before_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORRUPTKIT_CATALOG", raising=False)
    assert load_catalog().folder == SHIPPED
    monkeypatch.setenv("CORRUPTKIT_CATALOG", str(write_catalog(tmp_path / "environment", {})))
    assert list(load_catalog().sources) == ["shapes"]
    assert load_catalog(SHIPPED).folder == SHIPPED
    monkeypatch.setenv("CORRUPTKIT_CATALOG", "")
    assert load_catalog().folder == SHIPPED


def test_wheel_goes_before_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORRUPTKIT_CATALOG", raising=False)
    monkeypatch.setattr(catalog, "__file__", str(tmp_path / "corruptkit" / "catalog.py"))
    checkout = write_catalog(tmp_path / "catalog", {})
    assert load_catalog().folder == checkout
    wheel = write_catalog(tmp_path / "corruptkit" / "_catalog", {})
    assert load_catalog().folder == wheel


# What a catalog says


def test_ladder_expands_to_named_variants(tmp_path: Path) -> None:
    found = load_catalog(write_catalog(tmp_path, {})).variants
    assert list(found) == [f"shapes/swap-{ratio}-s{seed}" for ratio in ("0.05", "0.1") for seed in (0, 1 << 64)]
    variant = found["shapes/swap-0.1-s18446744073709551616"]
    assert (variant.source, variant.seed, variant.chain) == ("shapes", 1 << 64, ({"kind": "swap", "ratio": "0.1"},))
    assert variant.recipe().seed == "18446744073709551616"


@pytest.mark.parametrize(
    ("stated", "label"),
    [
        ('kind = "flip"', "flip"),
        ('kind = "flip"\nmode = "uniform"', "flip"),
        ('kind = "flip"\nmode = "pair"', "flip-pair"),
        ('kind = "swap"\nmode = "any"', "swap"),
        ('kind = "flip"\nname = "flip-some"\nof = "eligible"\nwhere = { classes = [1] }', "flip-some"),
    ],
)
def test_mode_stands_in_the_name_unless_usual(tmp_path: Path, stated: str, label: str) -> None:
    folder = write_catalog(tmp_path, {"variants/shapes.toml": change(GRID, 'kind = "swap"', stated)})
    assert next(iter(load_catalog(folder).variants)) == f"shapes/{label}-0.05-s0"


def test_fields_of_the_kind_reach_the_recipe(tmp_path: Path) -> None:
    stated = 'kind = "flip"\nmode = "within"\ngroups = "groups.json"\nof = "eligible"\nwhere = { min_words = 2 }'
    files = {"variants/shapes.toml": change(GRID, 'kind = "swap"', stated), "variants/groups.json": "[[0, 2]]"}
    variant = load_catalog(write_catalog(tmp_path, files)).variant("shapes/flip-within-0.05-s0")
    flip = variant.recipe().chain[0]
    assert (flip.mode, flip.groups, flip.of, flip.where.min_words) == ("within", ((0, 2),), "eligible", 2)


def test_source_keeps_what_its_file_says(tmp_path: Path) -> None:
    source = load_catalog(write_catalog(tmp_path, {})).source("shapes")
    assert (source.name, source.title, source.fields, source.classes) == ("shapes", "Shapes", ("label", "caption"), 3)
    assert (source.class_names, source.splits, source.fetch, source.needs_consent) == ((), {}, "", True)
    with pytest.raises(ValidationError):
        source.title = "Other"


@pytest.mark.parametrize("rule", ["sample", "path", "stem", "shard/key", "ordinal", "column:id", "json:url", "regex:(.*)_"])
def test_every_key_rule_is_known(tmp_path: Path, rule: str) -> None:
    folder = write_catalog(tmp_path, {"sources/shapes.toml": change(SOURCE, '"sample"', f"'{rule}'")})
    assert load_catalog(folder).source("shapes").key_rule == rule


def test_unknown_names_have_a_nearest_word(tmp_path: Path) -> None:
    found = load_catalog(write_catalog(tmp_path, {}))
    with pytest.raises(CatalogError, match=r"unknown source 'shape'; did you mean 'shapes'\?"):
        found.source("shape")
    with pytest.raises(CatalogError, match=r"unknown variant 'shapes/swap-0.05'; did you mean 'shapes/swap-0.05-s0'\?"):
        found.variant("shapes/swap-0.05")


def test_digest_covers_names_and_bytes_of_every_file(tmp_path: Path) -> None:
    first = load_catalog(write_catalog(tmp_path / "a", {})).digest
    assert load_catalog(shutil.copytree(tmp_path / "a", tmp_path / "b")).digest == first
    changed = [
        {"sources/shapes.toml": SOURCE + "\n"},
        {"sources/others.toml": SOURCE},
        {"variants/groups.json": "[]"},
        {"variants/groups.json": "[[]]"},
    ]
    digests = [load_catalog(write_catalog(tmp_path / str(i), files)).digest for i, files in enumerate(changed)]
    assert len({first, *digests}) == 5


def test_hidden_files_are_nobodys_business(tmp_path: Path) -> None:
    digest = load_catalog(write_catalog(tmp_path, {})).digest
    write_catalog(tmp_path, {".DS_Store": b"\xff", "sources/.shapes.toml.swp": b"\xff"})
    assert load_catalog(tmp_path).digest == digest


# What is wrong, each alone

BROKEN_SOURCES = {
    "sources/shapes.toml, titel: unknown field 'titel'; did you mean 'title'?": (SOURCE + 'titel = "x"\n'),
    "sources/shapes.toml, name: unknown field 'name'; leave it out: the file's stem is the name": (SOURCE + 'name = "shapes"\n'),
    "sources/shapes.toml, get: a required field is missing; state get": SOURCE.replace("get =", "# get ="),
    "sources/shapes.toml, key_rule: unknown key rule 'sampel', did you mean 'sample'?": change(SOURCE, '"sample"', '"sampel"'),
    "sources/shapes.toml, key_rule: unknown key rule 'column:', did you mean 'column:NAME'?": change(SOURCE, '"sample"', '"column:"'),
    "sources/shapes.toml, fetch: unknown fetcher 'openmoj', did you mean 'openmoji'?": SOURCE + 'fetch = "openmoj"\n',
    "sources/shapes.toml, fields.0: found 'labels'; did you mean 'label'?": change(SOURCE, '["label"', '["labels"'),
    "sources/shapes.toml: classes are stated, expected 'label' among the fields": change(SOURCE, '["label", "caption"]', '["caption"]'),
    "sources/shapes.toml: 2 class names, expected as many as classes (3)": SOURCE + 'class_names = ["a", "b"]\n',
    "sources/shapes.toml: a class name stands twice, expected distinct names": SOURCE + 'class_names = ["a", "b", "a"]\n',
    "sources/shapes.toml: needs_consent is false, expected the name of a fetcher in fetch": SOURCE + "needs_consent = false\n",
    "sources/shapes.toml, splits.train: found -1, expected greater than or equal to 0": SOURCE + "splits = { train = -1 }\n",
    "sources/shapes.toml, class_names: cannot read 'no.json': No such file or directory, expected a JSON array of names; mend it": (
        SOURCE + 'class_names = "no.json"\n'
    ),
    "sources/shapes.toml, class_names: cannot read 'shapes.toml': it is not JSON, expected a JSON array of names; mend it": (
        SOURCE + 'class_names = "shapes.toml"\n'
    ),
    "sources/shapes.toml, mirrors.0.urls: unknown field 'urls'; did you mean 'url'?": (
        SOURCE + '[[mirrors]]\nurl = "https://example.org/"\nformat = "urls"\nurls = "x"\n'
    ),
    "sources/shapes.toml, mirrors.0.format: found 'webdatasets'; did you mean 'webdataset'?": (
        SOURCE + '[[mirrors]]\nurl = "https://example.org/"\nformat = "webdatasets"\n'
    ),
    "sources/shapes.toml, mirrors.0.url: a required field is missing; state mirrors.0.url": SOURCE + '[[mirrors]]\nformat = "urls"\n',
    "sources/shapes.toml, mirrors.0.rows.train: found -1, expected greater than or equal to 0": (
        SOURCE + '[[mirrors]]\nurl = "https://example.org/"\nformat = "urls"\nrows = { train = -1 }\n'
    ),
    "sources/shapes.toml, mirrors.0.url: found 'example.org'": SOURCE + '[[mirrors]]\nurl = "example.org"\nformat = "urls"\n',
    "sources/shapes.toml, classes: found ": change(SOURCE, "classes = 3", 'classes = "3"'),
}
BROKEN_GRIDS = {
    "variants/shapes.toml, sauce: unknown field 'sauce'; did you mean 'source'?": 'sauce = "shapes"\n' + GRID,
    "variants/shapes.toml, source: unknown source 'shape'; did you mean 'shapes'?": change(GRID, '"shapes"', '"shape"'),
    "variants/shapes.toml, ladder.0.kind: unknown kind 'swop'; did you mean 'swap'?": change(GRID, '"swap"', '"swop"'),
    "variants/shapes.toml, ladder.0.off: unknown field 'off'; did you mean 'of'?": GRID + 'off = "all"\n',
    "variants/shapes.toml, ladder.0.ratio: unknown field 'ratio'; did you mean 'ratios'?": GRID + 'ratio = "0.05"\n',
    "variants/shapes.toml, ladder.0.mode: found 'both'; valid are: any": GRID + 'mode = "both"\n',
    "variants/shapes.toml, ladder.0.of: found 'eligibel'; did you mean 'eligible'?": GRID + 'of = "eligibel"\n',
    "variants/shapes.toml, ladder.0.classses: unknown field 'classses'; did you mean 'classes'?": GRID + "where = { classses = [1] }\n",
    "variants/shapes.toml, ladder.0.ratios: a required field is missing; state ladder.0.ratios": GRID.replace("ratios", "# ratios"),
    "variants/shapes.toml, ladder.0.seeds.0: found -1, expected greater than or equal to 0": change(GRID, "[0,", "[-1,"),
    "variants/shapes.toml, ladder.0.ratios.1: found ": change(GRID, '"0.1"', "0.1"),
    "variants/shapes.toml: variant 'shapes/swap-0.05-s0' is stated twice; give a ladder a name of its own": change(GRID, "[0,", "[0, 0,"),
    "variants/shapes.toml, ladder.0.flip: flip mode 'within' needs groups": change(GRID, '"swap"', '"flip"\nmode = "within"'),
    "variants/shapes.toml: variants 'shapes/a-b-0.05-s0' and 'shapes/a_b-0.05-s0' have one name on the Hub; give a ladder another name": (
        'source = "shapes"\n'
        + "".join(f'[[ladder]]\nkind = "swap"\nname = "{name}"\nratios = ["0.05"]\nseeds = [0]\n' for name in ("a-b", "a_b"))
    ),
    **{
        f"variants/shapes.toml, ladder.0.ratios: found ratio '{ratio}', expected a decimal in [0, 1]": change(GRID, '"0.1"', f'"{ratio}"')
        for ratio in ("0.10", "1.0", ".1", "5%", "1.5", "-0.1", "1e-1", "")
    },
}


@pytest.mark.parametrize(("said", "text"), BROKEN_SOURCES.items())
def test_broken_source_is_told(tmp_path: Path, said: str, text: str) -> None:
    assert said in problem_starts(write_catalog(tmp_path, {"sources/shapes.toml": text}), said)


@pytest.mark.parametrize(("said", "text"), BROKEN_GRIDS.items())
def test_broken_grid_is_told(tmp_path: Path, said: str, text: str) -> None:
    assert said in problem_starts(write_catalog(tmp_path, {"variants/shapes.toml": text}), said)


def problem_starts(folder: Path, said: str) -> list[str]:
    """The only problem, cut to the length of what should be said: a library's own words may go on."""
    found = problems_of(folder)
    assert len(set(found)) == len(found) <= 2, found
    return [problem[: len(said)] for problem in found]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("sources/shapes.toml", "title = ", "sources/shapes.toml: not a TOML file: Invalid value"),
        ("sources/shapes.toml", b"title = '\xff'", "sources/shapes.toml: not a TOML file: 'utf-8' codec"),
        ("variants/shapes.toml", "a = " + "[" * 5000, "variants/shapes.toml: not a TOML file: "),
        ("sources/shapes.yaml", "", "sources/shapes.yaml: unexpected file, expected NAME.toml, in lower case; rename it or move it away"),
        ("sources/Shapes.toml", SOURCE, "sources/Shapes.toml: unexpected file"),
        ("sources/more/shapes.toml", SOURCE, "sources/more: unexpected file"),
        ("sources/folder.toml/x", "", "sources/folder.toml: cannot be read: Is a directory"),
        ("source/shapes.toml", SOURCE, "source: it is no part of a catalog, expected sources, variants; move it away"),
    ],
)
def test_stray_or_unreadable_file_is_told(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    assert any(problem.startswith(said) for problem in problems_of(write_catalog(tmp_path, {name: content})))


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_folder_without_sources_is_no_catalog(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    expected = f"{tmp_path / name}: it holds no folder 'sources', expected sources/*.toml and variants/*.toml; name another folder"
    with pytest.raises(CatalogError) as caught:
        load_catalog(tmp_path / name)
    assert str(caught.value) == expected


def test_catalog_needs_no_variants(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path, {})
    shutil.rmtree(folder / "variants")
    assert load_catalog(folder).variants == {}


# What is wrong, all together


def test_all_problems_of_all_files_come_together(tmp_path: Path) -> None:
    """A file for every broken text above and a few that are no TOML: one error names them all, and each only once."""
    files: dict[str, str | bytes] = {"sources/no-toml.toml": "[", "sources/no-text.toml": b"\xff", "variants/README.md": "", "notes": ""}
    files |= {f"sources/broken-{i}.toml": text for i, text in enumerate(BROKEN_SOURCES.values())}
    files |= {f"variants/broken-{i}.toml": text for i, text in enumerate(BROKEN_GRIDS.values())}
    found = problems_of(write_catalog(tmp_path, files))
    told = {problem.partition(":")[0].partition(",")[0] for problem in found}
    assert told >= files.keys()
    assert "sources/shapes.toml" not in told
    assert len(set(found)) == len(found) >= len(files)


def test_no_mistake_of_a_grid_hides_another(tmp_path: Path) -> None:
    """Ratios and seeds that are none, beside words that are none: each is told, with the nearest word."""
    grid = """
source = "shaeps"
[[ladder]]
kind = "flp"
ratios = ["5%"]
seeds = [-1]
[[ladder]]
kind = "words"
levle = 3
ratios = ["0.1"]
seeds = []
[[ladder]]
kind = "words"
level = 9
ratios = ["0.1"]
seeds = [0]
"""
    found = "\n".join(problems_of(write_catalog(tmp_path, {"variants/shapes.toml": grid})))
    parts = ["source: unknown source 'shaeps'; did you mean 'shapes'?", "ladder.0.ratios: found ratio '5%'", "ladder.0.seeds.0: found -1"]
    parts += ["ladder.0.kind: unknown kind 'flp'; did you mean 'flip'?", "ladder.1.levle: unknown field 'levle'; did you mean 'level'?"]
    parts += ["ladder.1.seeds: found []", "ladder.2.level: found 9"]
    assert found.count("\n") == len(parts) - 1, found
    assert all(f"variants/shapes.toml, {part}" in found for part in parts), found


def test_two_files_may_not_state_one_variant(tmp_path: Path) -> None:
    found = problems_of(write_catalog(tmp_path, {"variants/twice.toml": GRID}))
    assert len(found) == 4
    assert all(problem.startswith("variants/twice.toml: variant 'shapes/swap-") for problem in found)


def test_grid_of_a_broken_source_is_no_second_problem(tmp_path: Path) -> None:
    assert len(problems_of(write_catalog(tmp_path, {"sources/shapes.toml": "["}))) == 1
