"""Which files of a folder are the shards of a split."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from corruptkit.errors import DatasetError, Problem

# The words by which published sets name their splits in file names.
_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
_WORDS |= {"test": "test"}
_PACKED = re.compile(r"\.(?:tgz|tbz2?|txz|tar\.(?:gz|bz2|xz|zst|lz4))$", re.IGNORECASE)
_TOKEN = re.compile(r"[a-z]+")


def list_shards(path: Path, split: str | None) -> list[Path]:
    """The tars of a split by name: of a folder, of a pattern such as `DIR/cc3m-*.tar`, or the one tar that the path is.

    A folder that names no splits is one. Raises DatasetError where nothing is found.
    """
    if path.is_file():
        tars = [path] if path.name.endswith(".tar") else []
    elif path.is_dir():
        _refuse_compressed(path)
        tars = sorted(file for file in path.iterdir() if file.name.endswith(".tar") and not file.name.startswith("."))
        tars = _of_split(path, tars, split)
    elif any(c in path.name for c in "*?["):
        tars = sorted(file for file in path.parent.glob(path.name) if file.name.endswith(".tar"))
    else:
        tars = []
    if not tars:
        _refuse_compressed(path)
        do = "use a pattern such as 'DIR/*.tar'" if "{" in path.name else "mend the path"
        found = "no such file or folder" if not path.exists() else f"no .tar file{f' of split {split}' if split else ''}"
        raise DatasetError(Problem(str(path), found, "a folder of WebDataset shards, a shard, or a variant", do))
    for tar in tars:
        if not _is_text(tar.name):
            raise DatasetError(Problem(str(tar), "a name that is not UTF-8", "a name in UTF-8", "rename the shard"))
        if not tar.is_file():
            raise DatasetError(Problem(str(tar), "not there, or no regular file", "a WebDataset shard", "mend the path"))
    return tars


def _is_text(name: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in name)


def _refuse_compressed(path: Path) -> None:
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    packed = [file for file in files if _PACKED.search(file.name)]
    if packed:
        raise DatasetError(Problem(str(packed[0]), "a compressed tar", "an uncompressed one", "unpack it first, with gunzip or its like"))


def _of_split(folder: Path, tars: Sequence[Path], split: str | None) -> list[Path]:
    named = _stated_splits(folder)
    splits = {tar: named.get(tar.name) or _split_word(tar.name) for tar in tars}
    found = sorted({name for name in splits.values() if name})
    if not found and split in (None, "train"):
        return list(tars)
    if found and (nameless := [tar for tar in tars if not splits[tar]]):
        what, expected = f"{len(nameless)} shards that name no split, such as {nameless[0].name}", f"a split as in {tars[-1].name}"
        raise DatasetError(Problem(str(folder), what, expected, "name the shards by a pattern, such as 'DIR/train-*.tar'"))
    wanted = _WORDS.get(split or "", split) or ("train" if "train" in found or len(found) > 1 else found[0])
    if wanted not in found:
        split = wanted
        raise DatasetError(Problem(str(folder), f"no split '{split}'", f"one of: {', '.join(found) or 'train'}", "state another --split"))
    return [tar for tar in tars if splits[tar] == wanted]


def _stated_splits(folder: Path) -> dict[str, str]:
    """Shard names by split, as timm's _info.json states them."""
    for name in ("_info.json", "info.json"):
        try:
            splits = json.loads((folder / name).read_text(encoding="utf-8"))["splits"]
            return {shard: str(_WORDS.get(split, split)) for split, entry in splits.items() for shard in entry["filenames"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return {}


def _split_word(name: str) -> str | None:
    return next((_WORDS[word] for word in _TOKEN.findall(name.lower()) if word in _WORDS), None)


def split_of(shards: Sequence[Path], split: str | None) -> str:
    """The name of the split that shards are of: as asked for, as _info.json states, by their file names, else train."""
    stated = _stated_splits(shards[0].parent).get(shards[0].name)
    return _WORDS.get(split or "", split) or stated or _split_word(shards[0].name) or "train"
