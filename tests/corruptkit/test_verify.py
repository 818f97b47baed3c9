"""Verification: a sound variant passes, and whatever is done to one is found, forgeries that sign themselves anew included."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from corruptkit.cli import main
from corruptkit.errors import CatalogError, DatasetError
from corruptkit.formats.overlay import read_edits
from corruptkit.opening import open_dataset
from corruptkit.plan import make_plan
from corruptkit.recipe import parse_recipe
from corruptkit.verify import verify
from corruptkit.write import write_variant
from tests.corruptkit.damage import (
    Json,
    caption_of,
    chain_recipe,
    draw_number,
    flip_bit,
    forge_edits,
    forge_variant,
    published_source,
    replace_bytes,
)
from tests.corruptkit.shards import HIDDEN, write_tar

Forge = Callable[[Path, Json], object]


class Made(NamedTuple):
    """A source with side-cars, a variant of it and an overlay over it. Nobody changes them."""

    source: Path
    variant: Path
    overlay: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("verify")
    dataset = open_dataset(published_source(folder / "source"))
    plan = make_plan(chain_recipe(folder), dataset.index())
    write_variant(dataset, plan, folder / "variant")
    write_variant(dataset, plan, folder / "overlay", "overlay")
    return Made(folder / "source", folder / "variant", folder / "overlay")


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Path:
    """A variant to be harmed."""
    return shutil.copytree(made.variant, tmp_path / "copied")


def problems_of(folder: Path, **how: Any) -> list[str]:
    return [str(problem) for problem in verify(folder, **how).problems]


def list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# What is sound


def test_sound_variant_passes(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(made.variant).problems == ()
    assert main(["verify", str(made.variant), "--workers", "1"]) == 0
    assert len(verify(made.variant).checks) == 4
    assert len(verify(made.variant, source=made.source, deep=True).checks) == 6
    assert "verified, variant_id " in capsys.readouterr().out


def test_sound_overlay_passes(made: Made) -> None:
    assert verify(made.overlay).problems == ()
    assert verify(made.overlay, source=made.source).problems == ()
    assert len(list_files(made.overlay)) < len(list_files(made.variant))


def test_answer_in_json_says_what_was_checked(made: Made, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(made.variant), "--json", "--workers", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["command"], found["verified"], found["problems"]) == ("verify", True, [])
    assert [variant["format"] for variant in found["variants"]] == ["webdataset"]
    (copied / "00001.tar").unlink()
    assert main(["verify", str(copied), "--json", "--workers", "1"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verified"], [problem["file"] for problem in found["problems"]]) == (False, [str(copied / "00001.tar")])


def test_workers_find_the_same(copied: Path) -> None:
    for path in (copied / "00001.tar", copied / "00002.parquet"):
        flip_bit(path, 4000)
    assert problems_of(copied, workers=2) == problems_of(copied)
    assert len(problems_of(copied)) == 2


# What is damaged


def test_any_flipped_bit_is_found(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """200 bits over all files in turn, at places that look random: each is found, its file named, exit status 1."""
    files, kinds = list_files(copied), set[str]()
    assert main(["verify", str(copied), "--workers", "1"]) == 0
    for number in range(200):
        path = files[number % len(files)]
        bit = draw_number(f"bit {number}", 8 * path.stat().st_size)
        flip_bit(path, bit)
        capsys.readouterr()
        assert main(["verify", str(copied), "--workers", "1"]) == 1, f"bit {bit} of {path.name}"
        told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
        assert any(path.name in line for line in told), f"bit {bit} of {path.name}: {told}"
        flip_bit(path, bit)
        kinds.add(path.parent.name if path.parent.name == "inputs" else path.name.lstrip("0123456789"))
    assert main(["verify", str(copied), "--workers", "1"]) == 0
    hidden = {"manifest.json", "manifest.sha256", "plan.parquet", "originals.tar", "inputs"}
    assert kinds == {".tar", ".parquet", "_stats.json", "LICENSE"} | hidden


@pytest.mark.parametrize("name", ["00001.tar", "00001.parquet", "00001_stats.json", "LICENSE", "plan.parquet", "originals.tar", "inputs"])
def test_removed_file_is_named(name: str, copied: Path) -> None:
    path = next(path for path in list_files(copied) if name in (path.name, path.parent.name))
    path.unlink()
    assert problems_of(copied)[0].startswith(f"{path}: it is missing or cannot be read, expected SHA-256 ")


def test_folder_without_manifest_is_no_variant(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / HIDDEN / "manifest.json").unlink()
    with pytest.raises(DatasetError, match="there is no manifest, expected a finished variant"):
        verify(copied)
    assert main(["verify", str(copied), "--workers", "1"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {copied / HIDDEN / 'manifest.json'}: ")


def test_missing_checksum_is_found(copied: Path) -> None:
    (copied / HIDDEN / "manifest.sha256").unlink()
    (problem,) = problems_of(copied)
    assert "manifest.sha256: cannot be read" in problem


@pytest.mark.parametrize(
    "name",
    [
        "extra.tar",
        "captions.json",
        ".hidden",
        "sub/folder/file",
        ".corruptkit/more.json",
        ".corruptkit/inputs/" + "0" * 64,
        "00001.tar.bak",
    ],
)
def test_unlisted_file_is_named(name: str, copied: Path) -> None:
    (copied / name).parent.mkdir(parents=True, exist_ok=True)
    (copied / name).write_bytes(b"the clean captions")
    (problem,) = problems_of(copied)
    assert problem.startswith(f"{copied / name}: a file that the manifest does not list")


@pytest.mark.parametrize("name", ["more", ".corruptkit/inputs/more"])
@pytest.mark.parametrize("target", ["nowhere", "/"])
def test_unlisted_link_is_named_and_not_followed(name: str, target: str, copied: Path) -> None:
    (copied / name).symlink_to(target)
    (problem,) = problems_of(copied)
    assert problem.startswith(f"{copied / name}: a file that the manifest does not list")


def test_unlisted_pipe_is_named_and_not_opened(copied: Path) -> None:
    os.mkfifo(copied / "pipe")
    (problem,) = problems_of(copied)
    assert problem.startswith(f"{copied / 'pipe'}: a file that the manifest does not list")


def test_caches_are_no_part_of_a_variant(copied: Path) -> None:
    open_dataset(copied).index()
    assert list((copied / HIDDEN).glob("index-*"))
    assert problems_of(copied) == []


@pytest.mark.parametrize("size", [0, 1, 511, 512, 5000, -1, -512])
def test_shard_that_is_cut_short_is_named(size: int, copied: Path) -> None:
    path = copied / "00001.tar"
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    (problem,) = problems_of(copied)
    assert problem.startswith(f"{path}: SHA-256 ")


def test_swapped_shards_are_both_named(copied: Path) -> None:
    shards = copied / "00000.tar", copied / "00002.tar"
    kept = [shard.read_bytes() for shard in shards]
    for shard, content in zip(shards, reversed(kept), strict=True):
        shard.write_bytes(content)
    assert [problem.partition(": ")[0] for problem in problems_of(copied)] == [str(shard) for shard in shards]


def test_shard_that_is_a_link_is_named(copied: Path, tmp_path: Path) -> None:
    """Its bytes are right today, and somebody else's to change."""
    shard = copied / "00001.tar"
    shard.rename(tmp_path / "elsewhere.tar")
    shard.symlink_to(tmp_path / "elsewhere.tar")
    (problem,) = problems_of(copied)
    assert problem.startswith(f"{shard}: it is missing or cannot be read")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_shard_that_is_no_file_is_named(kind: str, copied: Path) -> None:
    shard = copied / "00001.tar"
    shard.unlink()
    shard.mkdir() if kind == "folder" else os.mkfifo(shard)
    assert problems_of(copied)[0].startswith(f"{shard}: it is missing or cannot be read")


def test_hidden_folder_that_is_a_link_is_named(copied: Path, tmp_path: Path) -> None:
    (copied / HIDDEN).rename(tmp_path / "elsewhere")
    (copied / HIDDEN).symlink_to(tmp_path / "elsewhere")
    assert any(problem.startswith(f"{copied / HIDDEN}: ") for problem in problems_of(copied))


def test_every_damaged_file_is_named_at_once(copied: Path) -> None:
    names = ["00000.tar", "00002.parquet", "LICENSE", ".corruptkit/originals.tar"]
    for name in names:
        flip_bit(copied / name, 7)
    (copied / "more").touch()
    assert {problem.partition(": ")[0] for problem in problems_of(copied)} == {str(copied / name) for name in [*names, "more"]}


def test_manifest_of_another_variant_is_found(made: Made, copied: Path, tmp_path: Path) -> None:
    dataset = open_dataset(made.source)
    recipe = chain_recipe(tmp_path).model_copy(update={"seed": "6"})
    write_variant(dataset, make_plan(recipe, dataset.index()), tmp_path / "other")
    for name in ("manifest.json", "manifest.sha256"):
        shutil.copy(tmp_path / "other" / HIDDEN / name, copied / HIDDEN / name)
    named = {Path(problem.partition(": ")[0]).name for problem in problems_of(copied)}
    assert named >= {"plan.parquet", "originals.tar", "00000.tar"}
    (copied / HIDDEN / "manifest.sha256").write_bytes((made.variant / HIDDEN / "manifest.sha256").read_bytes())
    (problem,) = problems_of(copied)
    assert problem.startswith(f"{copied / HIDDEN / 'manifest.json'}: does not match manifest.sha256")


# Forgeries: every digest and id has been made to fit


def edited_row(made: Made, field: str = "caption", *, edited: bool = True) -> Json:
    """A row of shard 1 that the plan edits in the end, or does not: its key, and its old and new value."""
    ends: dict[str, list[str]] = {}
    for edit in read_edits(made.variant / HIDDEN / "plan.parquet").to_pylist():
        if edit["field"] == field:
            ends.setdefault(edit["key"], [edit["old"]]).append(edit["new"])
    keys = [key for key in (f"00001{i:04d}" for i in range(12) if i % 5 != 4) if (key in ends) == edited]
    return {"key": keys[0], "old": ends[keys[0]][0], "new": ends[keys[0]][-1]} if edited else {"key": keys[0]}


def rewrite_member(shard: Path, name: str, change: Callable[[bytes], bytes | None]) -> None:
    """Write a shard anew with a member changed, or left out where `change` gives None."""
    with tarfile.open(shard) as tar:
        members = [(info.name, content.read()) for info in tar if (content := tar.extractfile(info))]
    assert name in dict(members)
    changed = [(other, change(content) if other == name else content) for other, content in members]
    write_tar(shard, [(other, content) for other, content in changed if content is not None])


def test_forging_nothing_still_passes(made: Made, tmp_path: Path) -> None:
    """Whatever the next tests find is found by content, not by how they sign."""
    forged = forge_variant(made.variant, tmp_path / "forged", lambda _folder, _manifest: None)
    assert problems_of(forged, source=made.source, deep=True) == []


def test_caption_that_was_changed_and_signed_is_found(made: Made, tmp_path: Path) -> None:
    key = edited_row(made, edited=False)["key"]
    caption = caption_of(key).encode()
    forged = forge_variant(
        made.variant,
        tmp_path / "forged",
        lambda folder, _: replace_bytes(folder / "00001.tar", caption, caption.upper()[:-4] + caption[-4:]),
    )
    (problem,) = problems_of(forged)
    assert "without the edits, the fingerprint" in problem


def test_clean_caption_that_was_put_back_and_signed_is_found(made: Made, tmp_path: Path) -> None:
    row = edited_row(made)

    def put_back(folder: Path, _: Json) -> None:
        rewrite_member(folder / "00001.tar", f"{row['key']}.txt", lambda _: row["old"].encode())

    (problem,) = problems_of(forge_variant(made.variant, tmp_path / "forged", put_back))
    assert "new values of the plan that give the fingerprint" in problem


@pytest.mark.parametrize("edited", [True, False])
def test_label_that_was_changed_and_signed_is_found(edited: bool, made: Made, tmp_path: Path) -> None:
    key = edited_row(made, "label", edited=edited)["key"]

    def change(folder: Path, _: Json) -> None:
        rewrite_member(folder / "00001.tar", f"{key}.cls", lambda content: b"%d" % ((int(content) + 1) % 7))

    (problem,) = problems_of(forge_variant(made.variant, tmp_path / "forged", change))
    assert "fingerprint" in problem


@pytest.mark.parametrize("edited", [True, False])
def test_row_that_was_left_out_and_signed_is_found(edited: bool, made: Made, tmp_path: Path) -> None:
    key = edited_row(made, edited=edited)["key"]

    def leave_out(folder: Path, _: Json) -> None:
        for suffix in ("jpg", "json", "txt", "cls"):
            rewrite_member(folder / "00001.tar", f"{key}.{suffix}", lambda _: None)

    assert problems_of(forge_variant(made.variant, tmp_path / "forged", leave_out)) != []


def test_shard_that_is_no_tar_and_signed_is_found(made: Made, tmp_path: Path) -> None:
    forged = forge_variant(made.variant, tmp_path / "forged", lambda folder, _: (folder / "00001.tar").write_bytes(b"no tar" * 999))
    (problem,) = problems_of(forged)
    assert problem.startswith(f"{forged / '00001.tar'}: ")


def test_cached_index_is_not_trusted(made: Made, tmp_path: Path) -> None:
    """A shard changes, its size and time do not, and an index says what the shard said before."""
    caption = caption_of(edited_row(made, edited=False)["key"])

    def change(folder: Path, _: Json) -> None:
        open_dataset(folder).index()
        kept = (folder / "00001.tar").stat()
        replace_bytes(folder / "00001.tar", caption.encode(), caption.replace("only", "ONLY").encode())
        os.utime(folder / "00001.tar", ns=(kept.st_atime_ns, kept.st_mtime_ns))

    forged = forge_variant(made.variant, tmp_path / "forged", change)
    assert caption in open_dataset(forged).index().column("caption").to_pylist(), "the index is believed by readers"
    (problem,) = problems_of(forged)
    assert "fingerprint" in problem


def mend_checksum(shard: Path, place: int) -> None:
    with shard.open("r+b") as file:
        file.seek(place)
        block = bytearray(file.read(512))
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        file.seek(place)
        file.write(block)


def set_field(*path: str | int, to: object) -> Forge:
    """A forgery of one field of a manifest."""

    def forge(_: Path, manifest: Json) -> None:
        table: Any = manifest
        for name in path[:-1]:
            table = table[name]
        table[path[-1]] = to

    return forge


FIELDS: dict[str, Forge] = {
    "counts.rows": set_field("counts", "rows", to=31),
    "counts.excluded": set_field("counts", "excluded", to=1),
    "counts.changed": set_field("counts", "changed", to=3),
    "counts.effective_ratio": set_field("counts", "effective_ratio", to="0.5"),
    "counts.stages": set_field("counts", "stages", to=[]),
    "counts.eligible": set_field("counts", "stages", 0, "eligible", to=3),
    "counts.selected": set_field("counts", "stages", 1, "selected", to=3),
    "counts.edits": set_field("counts", "stages", 1, "edits", to=3),
    "shard rows": set_field("shards", 1, "rows", to=11),
    "shard edits": set_field("shards", 2, "edits", to=1),
    "seed": set_field("identity", "recipe", "seed", to="6"),
    "seed spelt otherwise": set_field("identity", "recipe", "seed", to="05"),
    "no seed": set_field("identity", "recipe", "seed", to="x"),
    "ratio": set_field("identity", "recipe", "chain", 0, "ratio", to="0.4"),
    "mode": set_field("identity", "recipe", "chain", 0, "mode", to="uniform"),
    "of": set_field("identity", "recipe", "chain", 1, "of", to="eligible"),
    "chain": set_field("identity", "recipe", "chain", to=[{"kind": "flip", "ratio": "0.1"}]),
    "empty chain": set_field("identity", "recipe", "chain", to=[]),
    "unknown kind": set_field("identity", "recipe", "chain", 0, "kind", to="swop"),
    "no stage": set_field("identity", "recipe", "chain", 0, to={}),
    "edits": set_field("identity", "edits", to=3),
    "plan_digest": set_field("identity", "plan_digest", to="0" * 64),
    "fingerprint": set_field("identity", "source", "fingerprint", to="0" * 64),
    "rows": set_field("identity", "source", "rows", to=31),
    "fewer classes": set_field("identity", "source", "classes", to=6),
    "no classes": set_field("identity", "source", "classes", to=None),
    "negative classes": set_field("identity", "source", "classes", to=-7),
    "2^40 classes": set_field("identity", "source", "classes", to=1 << 40),
    "key rule": set_field("identity", "source", "key_rule", to="shard/key"),
    "unknown key rule": set_field("identity", "source", "key_rule", to="sampel"),
    "broken key rule": set_field("identity", "source", "key_rule", to="regex:("),
    "label column": set_field("source", "label_column", to="nowhere"),
    "caption column": set_field("source", "caption_column", to="cls"),
    "format": set_field("circumstance", "format", to="overlay"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_forged_field_is_found(field: str, made: Made, tmp_path: Path) -> None:
    assert problems_of(forge_variant(made.variant, tmp_path / "forged", FIELDS[field])) != []


def test_shards_under_an_overlay_s_name_are_read(made: Made, tmp_path: Path) -> None:
    """A variant that calls itself an overlay would be checked against its source, and its shards by nobody."""
    key = edited_row(made, edited=False)["key"]

    def forge(folder: Path, manifest: Json) -> None:
        rewrite_member(folder / "00001.tar", f"{key}.txt", lambda _: b"forged")
        manifest["circumstance"]["format"] = "overlay"

    assert problems_of(forge_variant(made.variant, tmp_path / "forged", forge)) != []


def test_overlay_under_the_name_of_shards_is_refused(made: Made, tmp_path: Path) -> None:
    """It would read as a variant without rows."""
    forged = forge_variant(made.overlay, tmp_path / "forged", set_field("circumstance", "format", to="webdataset"))
    assert problems_of(forged) != []


WRONG_SHAPES: dict[str, Forge] = {
    **{f"where {value!r}": set_field("identity", "recipe", "chain", 0, "where", to=value) for value in ("abc", 5, [1], True, [["a", "b"]])},
    **{f"groups {value!r}": set_field("identity", "recipe", "chain", 2, "groups", to=value) for value in (None, 5, [], {}, [[0, 1]], "00")},
    **{
        f"keys {value!r}": set_field("identity", "recipe", "chain", 1, "where", "keys_file", to=value) for value in (5, [], {}, ["a"], "00")
    },
    **{f"kind {value!r}": set_field("identity", "recipe", "chain", 0, "kind", to=value) for value in (5, [], None)},
    **{f"ratio {value!r}": set_field("identity", "recipe", "chain", 0, "ratio", to=value) for value in ("x", [], "2", "1e999")},
    "matrix": set_field("identity", "recipe", "chain", 0, "matrix", to=[]),
    "stage": set_field("identity", "recipe", "chain", 0, to=[]),
    "deep": set_field("identity", "recipe", "chain", 0, "where", to=json.loads("[" * 150 + "]" * 150)),
    "where.classes": set_field("identity", "recipe", "chain", 0, "where", to={"classes": "x"}),
}


@pytest.mark.parametrize("shape", WRONG_SHAPES)
def test_recipe_of_a_wrong_shape_is_a_problem_and_no_crash(shape: str, made: Made, tmp_path: Path) -> None:
    assert problems_of(forge_variant(made.variant, tmp_path / "forged", WRONG_SHAPES[shape])) != []


def replace_input(old: str, content: bytes) -> Forge:
    """Put other content in the place of what a recipe names by digest."""

    def forge(folder: Path, manifest: Json) -> None:
        stage = manifest["identity"]["recipe"]["chain"][2 if old == "groups" else 1]
        table = stage if old == "groups" else stage["where"]
        name = f"{HIDDEN}/inputs/{table[old]}"
        table[old] = hashlib.sha256(content).hexdigest()
        (folder / name).unlink()
        (folder / HIDDEN / "inputs" / table[old]).write_bytes(content)
        record = next(record for record in manifest["files"] if record["path"] == name)
        record["path"] = f"{HIDDEN}/inputs/{table[old]}"

    return forge


CONTENTS = [b"", b"\xff", b"x", b"{}", b"[]", b"null", b"[[0]]", b"[[0,1,2],[4,99]]", b"[[0,1,2],[4,5]]", b"[" * 100_000, b"9" * 99_999]


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: content[:20].decode(errors="replace"))
@pytest.mark.parametrize("name", ["groups", "keys_file"])
def test_forged_content_of_a_recipe_is_a_problem_and_no_crash(name: str, content: bytes, made: Made, tmp_path: Path) -> None:
    assert problems_of(forge_variant(made.variant, tmp_path / "forged", replace_input(name, content))) != []


def test_forged_content_of_a_recipe_names_no_file_to_be_read(made: Made, tmp_path: Path) -> None:
    """Content is content: a text in it is no path, however much it looks like one."""
    (tmp_path / "secret").write_text("[[0, 1, 2], [4, 6]]")
    forged = forge_variant(made.variant, tmp_path / "forged", replace_input("groups", json.dumps(str(tmp_path / "secret")).encode()))
    said = " ".join(problems_of(forged))
    assert "expected groups as a list" in said
    (tmp_path / "secret").unlink()
    os.mkfifo(tmp_path / "secret")  # opening it would never come back
    assert " ".join(problems_of(forged)) == said


def change_edit(field: str, value: object, *, of: str = "caption") -> Forge:
    """A forgery of one cell of the plan, in its first edit of a field."""

    def change(rows: list[Json]) -> None:
        next(row for row in rows if row["field"] == of)[field] = value

    return lambda folder, manifest: forge_edits(folder, manifest, change)


CELLS: dict[str, Forge] = {
    "caption": change_edit("new", "forged"),
    "old caption": change_edit("old", "forged"),
    "label": change_edit("new", "6", of="label"),
    "old label": change_edit("old", "6", of="label"),
    "word for a label": change_edit("new", "six", of="label"),
    "empty label": change_edit("new", "", of="label"),
    "negative label": change_edit("old", "-1", of="label"),
    "huge label": change_edit("new", "9" * 40, of="label"),
    "donor": change_edit("donor", "000000000"),
    "rank": change_edit("rank", 1 << 40),
    "kind": change_edit("kind", "flop"),
    "stage": change_edit("stage", 9),
    "negative stage": change_edit("stage", -1),
    "field": change_edit("field", "label"),
    "key": change_edit("key", "99999"),
    "no edits": lambda folder, manifest: forge_edits(folder, manifest, list.clear),
    "one edit less": lambda folder, manifest: forge_edits(folder, manifest, list.pop),
    "edits in another order": lambda folder, manifest: forge_edits(folder, manifest, list.reverse),
}


@pytest.mark.parametrize("cell", CELLS)
def test_forged_plan_is_found(cell: str, made: Made, tmp_path: Path) -> None:
    """The plan, its digest, the count of edits and the id all fit; planned again from the recipe, it is another."""
    assert problems_of(forge_variant(made.variant, tmp_path / "forged", CELLS[cell])) != []


def test_forged_plan_and_shards_that_fit_each_other_are_found_by_planning_again(made: Made, tmp_path: Path) -> None:
    """The strongest forger: an edit more, in the plan, in the shard and in every count; only the recipe knows better."""
    row = edited_row(made, "label")

    def forge(folder: Path, manifest: Json) -> None:
        value = str((int(row["new"]) + 1) % 7)
        value = value if value != row["old"] else str((int(value) + 1) % 7)

        def change(rows: list[Json]) -> None:
            [edit for edit in rows if (edit["key"], edit["field"]) == (row["key"], "label")][-1]["new"] = value

        forge_edits(folder, manifest, change)
        rewrite_member(folder / "00001.tar", f"{row['key']}.cls", lambda _: f"{value}\n".encode())

    (problem,) = problems_of(forge_variant(made.variant, tmp_path / "forged", forge))
    assert "planned again" in problem


def test_plan_that_is_no_parquet_is_found(made: Made, tmp_path: Path) -> None:
    forged = forge_variant(made.variant, tmp_path / "forged", lambda folder, _: (folder / HIDDEN / "plan.parquet").write_bytes(b"PAR1" * 9))
    (problem,) = problems_of(forged)
    assert problem.startswith(f"{forged / HIDDEN / 'plan.parquet'}: it cannot be read")


# With the source


def test_wrong_source_is_named(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = published_source(tmp_path / "other", samples=11)
    for place in (made.variant, made.overlay):
        (problem,) = problems_of(place, source=other)
        assert problem.startswith(f"{other}, {place}: fingerprint ")
        assert "name the source that the variant was made of" in problem
        assert main(["verify", str(place), "--source", str(other), "--workers", "1"]) == 1
    assert str(other) in capsys.readouterr().out


def test_source_with_one_caption_changed_is_found(made: Made, tmp_path: Path) -> None:
    other = shutil.copytree(made.source, tmp_path / "other", ignore=shutil.ignore_patterns(HIDDEN))
    assert problems_of(made.variant, source=other, deep=True) == []
    rewrite_member(other / "00002.tar", "000020003.txt", lambda content: content + b" ")
    (problem,) = problems_of(made.variant, source=other)
    assert "fingerprint" in problem


@pytest.mark.parametrize("name", ["variant", "overlay"])
def test_source_that_is_not_there_is_named(name: str, made: Made, tmp_path: Path) -> None:
    (problem,) = problems_of(getattr(made, name), source=tmp_path / "nowhere")
    assert problem.startswith(f"{tmp_path / 'nowhere'}, ")


def test_overlay_without_its_source_says_what_to_state(made: Made, tmp_path: Path) -> None:
    forged = forge_variant(made.overlay, tmp_path / "forged", set_field("source", "source_url", to=str(tmp_path / "gone")))
    (problem,) = problems_of(forged)
    assert problem.endswith("state --source PATH")
    assert problems_of(forged, source=made.source) == []


def test_forged_overlay_is_found(made: Made, tmp_path: Path) -> None:
    for number, forge in enumerate([*CELLS.values(), FIELDS["seed"], FIELDS["counts.changed"], FIELDS["fingerprint"]]):
        assert problems_of(forge_variant(made.overlay, tmp_path / f"forged-{number}", forge)) != []


def test_deep_needs_shards_and_a_source(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CatalogError, match="state --source PATH"):
        verify(made.variant, deep=True)
    with pytest.raises(CatalogError, match="materialise it first"):
        verify(made.overlay, source=made.source, deep=True)
    assert main(["verify", str(made.variant), "--deep", "--workers", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# Deep: what digests and conditions cannot show


def flip_image(folder: Path, _: Json) -> None:
    content = (folder / "00001.tar").read_bytes()
    flip_bit(folder / "00001.tar", 8 * (content.index(b"000010002.jpg") + 600))


def leak_caption(folder: Path, _: Json) -> None:
    """The clean caption in a .json beside a .txt that holds the new one."""
    rewrite_member(folder / "00001.tar", "000010003.json", lambda content: content.replace(b'"caption"', b'"Caption"'))


def fill_padding(folder: Path, _: Json) -> None:
    content = (folder / "00001.tar").read_bytes()
    flip_bit(folder / "00001.tar", 8 * (content.index(b"000010002.cls") + 512 + 100))


def change_time(folder: Path, _: Json) -> None:
    place = (folder / "00001.tar").read_bytes().index(b"000010002.cls")
    with (folder / "00001.tar").open("r+b") as file:
        file.seek(place + 136)
        file.write(b"%011o" % 1)
    mend_checksum(folder / "00001.tar", place)


def append_bytes(folder: Path, _: Json) -> None:
    with (folder / "00001.tar").open("ab") as file:
        file.write(bytes(512))


def cut_end(folder: Path, _: Json) -> None:
    os.truncate(folder / "00001.tar", (folder / "00001.tar").stat().st_size - 512)


def swap_samples(folder: Path, _: Json) -> None:
    with tarfile.open(folder / "00001.tar") as tar:
        members = [(info.name, content.read()) for info in tar if (content := tar.extractfile(info))]
    write_tar(folder / "00001.tar", members[4:8] + members[:4] + members[8:])


DEEP: dict[str, tuple[Forge, str]] = {
    "image": (flip_image, "000010002.jpg"),
    "json": (leak_caption, "000010003.json"),
    "padding": (fill_padding, "000010002.cls"),
    "time": (change_time, "000010002.cls"),
    "order": (swap_samples, "000010000.jpg"),
    "more at the end": (append_bytes, "the end of the archive"),
    "less at the end": (cut_end, "the end of the archive"),
}


@pytest.mark.parametrize("name", DEEP)
def test_bytes_without_a_condition_are_compared_by_deep_alone(name: str, made: Made, tmp_path: Path) -> None:
    """Signed anew, these pass without --deep: a variant alone cannot know its images. With it, the member is named."""
    forge, member = DEEP[name]
    forged = forge_variant(made.variant, tmp_path / "forged", forge)
    assert problems_of(forged) == []
    assert problems_of(forged, source=made.source) == []
    (problem,) = problems_of(forged, source=made.source, deep=True)
    assert problem.startswith(f"{forged / '00001.tar'}, {member}: bytes that neither the source nor the plan explains")


def test_deep_compares_every_image(made: Made, tmp_path: Path) -> None:
    """A flipped bit in each image of the variant in turn."""
    for shard in range(3):
        content = (made.variant / f"{shard:05d}.tar").read_bytes()
        for key in (f"{shard:05d}{i:04d}" for i in range(0, 12, 3) if i % 5 != 4):
            forged = tmp_path / key
            place = content.index(f"{key}.jpg".encode()) + 512 + draw_number(key, 600)
            forge_variant(
                made.variant, forged, lambda folder, _, place=place, shard=shard: flip_bit(folder / f"{shard:05d}.tar", 8 * place)
            )
            (problem,) = problems_of(forged, source=made.source, deep=True)
            assert f"{key}.jpg: " in problem


def test_deep_needs_the_source_in_the_same_shards(made: Made, tmp_path: Path) -> None:
    other = shutil.copytree(made.source, tmp_path / "other", ignore=shutil.ignore_patterns(HIDDEN))
    (other / "00002.tar").rename(other / "00003.tar")
    assert problems_of(made.variant, source=other) == []
    (problem,) = problems_of(made.variant, source=other, deep=True)
    assert "by name" in problem


def test_variant_of_an_overlay_is_compared_with_what_the_overlay_reads(made: Made, tmp_path: Path) -> None:
    overlay = open_dataset(made.overlay)
    recipe = parse_recipe({"seed": "8", "chain": [{"kind": "swap", "ratio": "0.5"}]}, "test")
    write_variant(overlay, make_plan(recipe, overlay.index()), tmp_path / "over", "webdataset")
    assert problems_of(tmp_path / "over", source=made.overlay, deep=True) == []
    (problem,) = problems_of(tmp_path / "over", source=made.source)
    assert problem.startswith(f"{made.source}, ")
    forged = forge_variant(tmp_path / "over", tmp_path / "forged", flip_image)
    (problem,) = problems_of(forged, source=made.overlay, deep=True)
    assert "000010002.jpg" in problem
