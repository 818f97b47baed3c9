"""ImageNet's names and groups in the catalog are what the script derives from WordNet 3.0 and timm; its rules, on smaller WordNets."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
# Offset, words, hypernyms; the first line is one of the licence's.
NOUNS = """  1 This software and database
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | all there is
00000002 05 n 01 animal 0 001 @ 00000001 n 0000 | moves
00000003 05 n 02 true_cat 0 cat 0 001 @ 00000002 n 0000 | meows | or not
00000004 05 n 01 crane 0 002 @ 00000002 n 0000 ~ 00000003 n 0000 | wades
00000005 06 n 01 machine 0 001 @ 00000001 n 0000 | works
00000006 06 n 01 Crane 0 002 @ 00000005 n 0000 @i 00000002 n 0000 | lifts
"""


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(REPOSITORY / "pipelines" / "imagenet_groups.py"))


@pytest.fixture
def nouns(tmp_path: Path, script: dict[str, Any]) -> Any:
    (tmp_path / "data.noun").write_text(NOUNS, encoding="utf-8")
    return script["read_nouns"](tmp_path / "data.noun")


def test_nouns_are_read(nouns: Any) -> None:
    assert len(nouns) == 6
    assert nouns["n00000003"] == (("true cat", "cat"), ("n00000002",))
    assert nouns["n00000006"].above == ("n00000005", "n00000002")


def test_equal_names_are_told_apart(script: dict[str, Any], nouns: Any) -> None:
    names = script["name_classes"](["n00000003", "n00000004", "n00000006"], nouns)
    assert list(names.values()) == ["true cat", "crane (animal)", "Crane (machine)"]


def test_overlap_goes_along_any_hypernym_to_the_nearest(script: dict[str, Any], nouns: Any) -> None:
    classes = ["n00000003", "n00000005", "n00000006"]
    table = {"things": {"all": ["n00000001"]}, "animals": {"animal": ["n00000002"]}, "none": {"crane": ["n00000004"]}}
    assert script["match_cifar"](classes, nouns, table) == [[1], [0, 2]]
    assert script["match_cifar"](classes, nouns, {"animals": table["animals"]}) == [[0, 2]]


def test_tree_is_cut_from_below(script: dict[str, Any]) -> None:
    """Five cats, four dogs and three more animals among 96 classes: these are too few, and "thing" is too general for what is left."""
    make = script["Synset"]
    nouns = {"thing": make(("thing",), ()), "animal": make(("animal",), ("thing",))}
    nouns |= {kind: make((kind,), ("animal",)) for kind in ("cat", "dog", "bird")}
    kinds = ["cat"] * 5 + ["dog"] * 4 + ["bird"] * 3 + ["thing"] * 84
    nouns |= {f"{kind}{n}": make((f"{kind}{n}",), (kind,)) for n, kind in enumerate(kinds)}
    classes = [f"{kind}{n}" for n, kind in enumerate(kinds)]
    assert script["cut_tree"](classes, nouns) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    classes.append("bird96")
    nouns["bird96"] = make(("bird96",), ("animal",))
    more = {f"thing{n}": make((f"thing{n}",), ("thing",)) for n in range(97, 104)}
    assert script["cut_tree"](classes, nouns) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]], "13 animals of 97 are more than an eighth"
    assert script["cut_tree"]([*classes, *more], nouns | more)[-1] == [9, 10, 11, 96], "13 of 104 are an eighth"


def test_table_of_cifar_has_its_hundred_classes() -> None:
    table = json.loads((REPOSITORY / "pipelines" / "cifar100_synsets.json").read_text(encoding="utf-8"))
    assert [len(fine) for fine in table.values()] == [5] * 20
    synsets = [synset for fine in table.values() for synsets in fine.values() for synset in synsets]
    assert len({name for fine in table.values() for name in fine}) == 100
    assert len(set(synsets)) == len(synsets) == 102


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, script: dict[str, Any]) -> tuple[Path, Path]:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here: wordnet-base cannot be had")
    try:
        found: tuple[Path, Path] = script["download_packages"](tmp_path_factory.mktemp("packages"))
    except (subprocess.CalledProcessError, StopIteration) as error:
        pytest.skip(f"wordnet-base 3.0 or timm cannot be downloaded: {error!r}")
    return found


def test_catalog_holds_what_the_packages_give(packages: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["--noun", packages[0], "--synsets", packages[1], "--out", tmp_path]
    subprocess.run([sys.executable, REPOSITORY / "pipelines" / "imagenet_groups.py", *words], check=True, capture_output=True)
    made = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json"))
    assert made == sorted(path.relative_to(REPOSITORY / "catalog").as_posix() for path in (REPOSITORY / "catalog").rglob("imagenet*.json"))
    for name in made:
        assert (REPOSITORY / "catalog" / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_synsets_of_cifar_are_named_as_it_names_them(packages: tuple[Path, Path], script: dict[str, Any]) -> None:
    nouns = script["read_nouns"](packages[0])
    table = json.loads((REPOSITORY / "pipelines" / "cifar100_synsets.json").read_text(encoding="utf-8"))
    for fine in table.values():
        for name, synsets in fine.items():
            words = {word.lower() for synset in synsets for word in nouns[synset].words}
            assert name.replace("_", " ") in words or (name, words) == ("aquarium_fish", {"goldfish", "carassius auratus"})
