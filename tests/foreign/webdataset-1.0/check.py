"""The installed webdataset reads a corruptkit variant as its plan says, and the source as it lies.

Standard library, pyarrow and webdataset only: what a trainer would have. Prints one line, or fails.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import webdataset as wds

SHARDS, ROWS = 3, 40
# Plain keys, folders, and letters outside ASCII; the first dot of the base name ends a key.
KEYS = ("{:06d}", "split/part {:02d}", "köttur/猫-{:03d}", "a.b/{:04d}")
RECIPE = """\
seed = 7
[[chain]]
kind = "flip"
ratio = "0.25"
[[chain]]
kind = "swap"
ratio = "0.4"
[[chain]]
kind = "flip"
ratio = "0.25"
"""
MEMBERS = {"label": "cls", "caption": "txt"}


def write_shard(path: Path, number: int) -> None:
    """A shard in the manner of most writers: GNU format, members of a sample side by side."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for row in range(ROWS):
            key = KEYS[row % len(KEYS)].format(number * ROWS + row)
            image = hashlib.sha256(key.encode()).digest() * (1 + row % 40)
            label = f"{row % 7}" + ("\n" if row % 2 else "")
            files = {"cls": label, "jpg": image, "txt": f"thing {number}-{row}, größer than {row % 5}"}
            for extension, content in files.items():
                data = content if isinstance(content, bytes) else content.encode()
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def make_variant(folder: Path) -> tuple[Path, Path]:
    """Folders of a source and of its variant under a chain of three stages."""
    source, variant, recipe = folder / "source", folder / "variant", folder / "chain.toml"
    source.mkdir()
    for number in range(SHARDS):
        write_shard(source / f"{number:05d}.tar", number)
    recipe.write_text(RECIPE, "utf-8")
    command = [
        sys.executable,
        "-m",
        "corruptkit",
        "make",
        "--source",
        source,
        "--recipe",
        recipe,
        "--format",
        "webdataset",
        "--out",
        variant,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr or f"error: corruptkit make ended with exit code {done.returncode}")
    return source, variant


def read_samples(folder: Path, *, decoded: bool) -> list[dict[str, Any]]:
    """Every sample in file order, members as bytes or as webdataset decodes them."""
    dataset = wds.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False)
    return [
        {name: value for name, value in sample.items() if name not in ("__url__", "__local_path__")}
        for sample in (dataset.decode() if decoded else dataset)
    ]


def expected_samples(clean: list[dict[str, Any]], variant: Path) -> list[dict[str, Any]]:
    """The source's decoded samples after every edit of the plan, each `old` checked on the way."""
    samples = {sample["__key__"]: dict(sample) for sample in clean}
    for edit in pq.read_table(variant / ".corruptkit" / "plan.parquet").to_pylist():
        sample, name = samples[edit["key"]], MEMBERS[edit["field"]]
        expect_equal(str(sample[name]), edit["old"], f"{edit['key']}, stage {edit['stage']}: value before the edit")
        sample[name] = int(edit["new"]) if name == "cls" else edit["new"]
    return list(samples.values())


def expect_equal(found: object, expected: object, what: str) -> None:
    if found != expected:
        sys.exit(f"error: {what}: found {found!r}, expected {expected!r}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        source, variant = make_variant(Path(name))
        clean, read = read_samples(source, decoded=True), read_samples(variant, decoded=True)
        expect_equal(len(clean), SHARDS * ROWS, "rows of the source")
        expect_equal([sample["__key__"] for sample in read], [sample["__key__"] for sample in clean], "keys in order")
        expected = expected_samples(clean, variant)
        for found, planned in zip(read, expected, strict=True):
            expect_equal(found, planned, f"sample {planned['__key__']}")
        raw_clean, raw = read_samples(source, decoded=False), read_samples(variant, decoded=False)
        changed = sum(a != b for a, b in zip(raw, raw_clean, strict=True))
        counts = json.loads((variant / ".corruptkit" / "manifest.json").read_text("utf-8"))["counts"]
        expect_equal(changed, counts["changed"], "samples whose bytes differ")
        edits = sum(stage["edits"] for stage in counts["stages"])
        if not 0 < changed < len(raw):
            sys.exit(f"error: {changed} of {len(raw)} samples changed: nothing was shown")
    print(f"webdataset {version('webdataset')}: {len(raw)} rows in {SHARDS} shards, {edits} edits, {changed} rows changed, all as planned")


if __name__ == "__main__":
    main()
