"""Which files of a folder are the shards of a split."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.arrow import read_state
from corruptkit.formats.imagefolder import METADATA, find_folders, is_image
from corruptkit.formats.layout import FormatName

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


class Found(NamedTuple):
    """The shards of a split: their format, the folder that their names are relative to, and class names where folders are classes."""

    format: FormatName
    root: Path
    shards: tuple[Path, ...]
    split: str
    class_names: tuple[str, ...] = ()


_ENDINGS: dict[FormatName, str] = {"webdataset": ".tar", "parquet": ".parquet", "arrow": ".arrow"}


def find_shards(path: Path, split: str | None) -> Found:
    """The shards of a split: of a folder, of a pattern such as `DIR/cc3m-*.tar`, or the one that the path is.

    A folder that names no splits is one. Raises DatasetError where nothing is found.
    """
    if path.is_dir() and (path / "dataset_dict.json").is_file():
        path = _choose_folder(path, split)
    format, files = _list_files(path)
    if format == "imagefolder":
        root = _choose_folder(path, split)
        shards, names = find_folders(root)
        return Found(format, root, tuple(_checked(shards)), _split_of(path, root, split), names)
    root = path if path.is_dir() else path.parent
    if path.is_dir():
        files = _of_split(path, files, split)
    if not files:
        raise _nothing(path, split)
    return Found(format, root, tuple(_checked(files)), split_of(files, split))


def _list_files(path: Path) -> tuple[FormatName, list[Path]]:
    """The format of what lies at a path, and its files of that format."""
    if path.is_dir():
        _refuse_compressed(path)
        tars = _with_ending(path.iterdir(), ".tar")
        if tars:
            return "webdataset", tars
        listed = [path / name for name in read_state(path)[1]]
        if listed or (arrows := _with_ending(path.iterdir(), ".arrow")):
            return "arrow", listed or arrows
        if not any(next(path.rglob(name), None) for name in METADATA) and (parquets := _with_ending(_walk(path), ".parquet")):
            _refuse_lists(parquets)
            return "parquet", _one_config(path, parquets)
        if any(is_image(file.name) or file.name in METADATA for file in _walk(path)):
            return "imagefolder", []
        return "webdataset", []
    found = [path] if path.is_file() else sorted(path.parent.glob(path.name)) if any(c in path.name for c in "*?[") else []
    for format, ending in _ENDINGS.items():
        if files := _with_ending(found, ending):
            return format, files
    return "webdataset", []


def _with_ending(files: Iterable[Path], ending: str) -> list[Path]:
    """Files of an ending, but for hidden ones and for plans, which `corruptkit plan` may have written beside the shards."""
    named = (file for file in files if file.name.endswith(ending) and not file.name.endswith(".plan.parquet"))
    return sorted(file for file in named if not file.name.startswith("."))


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, none that is hidden or lies in a hidden folder."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _one_config(folder: Path, files: list[Path]) -> list[Path]:
    """The files of a repository with one config: in `data`, at its top, or in folders of splits."""
    configs = sorted({parts[0] for file in files if len(parts := file.relative_to(folder).parts) > 1 and parts[0] != "data"})
    configs = [name for name in configs if not _split_word(name)]
    if len(configs) > 1 or (configs and len({file.relative_to(folder).parts[0] for file in files}) > 1):
        found = f"several configs: {', '.join(configs[:6])}"
        raise DatasetError(Problem(str(folder), found, "one", f"name one of the folders, such as {folder / configs[0]}"))
    return files


def _choose_folder(folder: Path, split: str | None) -> Path:
    """The folder of a split, where folders are named by splits; else the folder itself."""
    named = {word: entry for entry in sorted(folder.iterdir()) if entry.is_dir() and (word := _WORDS.get(entry.name.lower()))}
    if not named:
        if split not in (None, "train"):
            raise DatasetError(Problem(str(folder), f"no split '{split}'", "one of: train", "state another --split"))
        return folder
    wanted = _WORDS.get(split or "", split) or ("train" if "train" in named or len(named) > 1 else next(iter(named)))
    if wanted not in named:
        raise DatasetError(Problem(str(folder), f"no split '{wanted}'", f"one of: {', '.join(named)}", "state another --split"))
    return named[wanted]


def _split_of(path: Path, root: Path, split: str | None) -> str:
    return _WORDS.get(split or "", split) or (_WORDS.get(root.name.lower(), "train") if root != path else "train")


def _nothing(path: Path, split: str | None) -> DatasetError:
    _refuse_compressed(path)
    do = "use a pattern such as 'DIR/*.tar'" if "{" in path.name else "mend the path"
    found = "no such file or folder" if not path.exists() else f"no shard or image{f' of split {split}' if split else ''}"
    expected = "tars, Parquet or Arrow files, a folder of images, or a variant"
    return DatasetError(Problem(str(path), found, expected, do))


def _checked(shards: Iterable[Path]) -> Iterator[Path]:
    for shard in shards:
        if not _is_text(shard.name):
            raise DatasetError(Problem(str(shard), "a name that is not UTF-8", "a name in UTF-8", "rename the shard"))
        if not shard.is_file() and any(shard.name.endswith(ending) for ending in _ENDINGS.values()):
            raise DatasetError(Problem(str(shard), "not there, or no regular file", "a shard", "mend the path"))
        yield shard


def _is_text(name: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in name)


def _refuse_compressed(path: Path) -> None:
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    packed = [file for file in files if _PACKED.search(file.name)]
    if packed:
        raise DatasetError(Problem(str(packed[0]), "a compressed tar", "an uncompressed one", "unpack it first, with gunzip or its like"))


def _refuse_lists(parquets: Iterable[Path]) -> None:
    """What img2dataset writes as `files`: NAME.parquet lists the captions of images that lie loose in NAME/."""
    for file in parquets:
        folder = file.with_suffix("")
        if folder.is_dir() and any(is_image(entry.name) for entry in folder.iterdir()):
            found, do = f"a list of the images that lie in {folder.name}/", "let img2dataset write --output_format webdataset, or parquet"
            raise DatasetError(Problem(str(file), found, "Parquet that holds its images", do))


def _of_split(folder: Path, tars: Sequence[Path], split: str | None) -> list[Path]:
    named = _stated_splits(folder)
    splits = {tar: named.get(tar.name) or _split_word(tar.relative_to(folder).as_posix()) for tar in tars}
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
    """The name of the split that shards are of: as asked for, as state.json or _info.json states, by their file names, else train."""
    folder = shards[0].parent
    stated = _stated_splits(folder).get(shards[0].name) or (read_state(folder)[0] if shards[0].suffix == ".arrow" else "")
    return _WORDS.get(split or "", split) or stated or _split_word(shards[0].name) or "train"
