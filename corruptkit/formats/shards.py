"""Which files of a folder are the shards of a split."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.arrow import SAVED_SPLITS, read_splits, read_state
from corruptkit.formats.imagefolder import METADATA, find_folders, is_image
from corruptkit.formats.layout import FormatName
from corruptkit.formats.splits import asked_split, check_split, folder_split, split_word
from corruptkit.remote import RemotePath, is_pattern, walk_folder

_PACKED = re.compile(r"\.(?:tgz|tbz2?|txz|tar\.(?:gz|bz2|xz|zst|lz4))$", re.IGNORECASE)


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
    split = asked_split(split)
    if path.is_dir() and (path / SAVED_SPLITS).is_file():
        return _find_saved(path, split)
    format, files = _list_files(path)
    if format == "imagefolder":
        root = _choose_folder(path, split)
        shards, names = find_folders(root)
        named = folder_split(root.name) if root != path else None
        return Found(format, root, tuple(_checked(shards)), split or named or "train", names)
    root = path if path.is_dir() else path.parent
    if path.is_dir():
        files = _of_split(path, files, split)
    if not files:
        raise _nothing(path, split)
    return Found(format, root, tuple(_checked(files)), split or _split_of(files[0]))


def _find_saved(path: Path, split: str | None) -> Found:
    """A split of a saved DatasetDict: its folder's name counts, since state.json may state the split that it was cut out of."""
    splits = {path / name: check_split(name, str(path / SAVED_SPLITS)) for name in read_splits(path)}
    folder = _choose_split(path, splits, split)
    format, files = _list_files(folder)
    if not files:
        raise _nothing(folder, None)
    return Found(format, folder, tuple(_checked(files)), splits[folder])


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
    single = not (isinstance(path, RemotePath) and is_pattern(path)) and path.is_file()
    found = [path] if single else sorted(path.parent.glob(path.name)) if is_pattern(path) else []
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
    if isinstance(folder, RemotePath):
        yield from walk_folder(folder)
        return
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _one_config(folder: Path, files: list[Path]) -> list[Path]:
    """The files of a repository with one config: in `data`, at its top, or in folders of splits."""
    configs = sorted({parts[0] for file in files if len(parts := file.relative_to(folder).parts) > 1 and parts[0] != "data"})
    configs = [name for name in configs if not split_word(name)]
    if len(configs) > 1 or (configs and len({file.relative_to(folder).parts[0] for file in files}) > 1):
        found = f"several configs: {', '.join(configs[:6])}"
        raise DatasetError(Problem(str(folder), found, "one", f"name one of the folders, such as {folder / configs[0]}"))
    return files


def _choose_folder(folder: Path, split: str | None) -> Path:
    """The folder of a split, where folders are named by splits; else the folder itself."""
    named = {entry: word for entry in sorted(folder.iterdir()) if entry.is_dir() and (word := folder_split(entry.name))}
    if named:
        return _choose_split(folder, named, split)
    if split not in (None, "train"):
        raise _no_split(folder, split, ())
    return folder


def _choose_split(place: Path, folders: Mapping[Path, str], split: str | None) -> Path:
    """The folder of a split, among folders with the split of each."""
    wanted = _wanted_split(place, tuple(dict.fromkeys(folders.values())), split)
    found = [folder for folder, name in folders.items() if name == wanted]
    if len(found) > 1:
        what, do = f"folders of one split: {', '.join(folder.name for folder in found)}", f"name one of them, such as {found[0]}"
        raise DatasetError(Problem(str(place), what, f"one folder of the split {wanted}", do))
    return found[0]


def _wanted_split(place: Path, named: Sequence[str], split: str | None) -> str:
    """The split that is asked for, else train, else the only one."""
    wanted = split or (named[0] if len(named) == 1 else "train")
    if wanted not in named:
        raise _no_split(place, wanted, named)
    return wanted


def _no_split(place: Path, split: str | None, named: Sequence[str]) -> DatasetError:
    return DatasetError(Problem(str(place), f"no split '{split}'", f"one of: {', '.join(named) or 'train'}", "state another --split"))


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
    if isinstance(path, RemotePath) and is_pattern(path):
        return
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    packed = [file for file in files if _PACKED.search(file.name)]
    if packed:
        raise DatasetError(Problem(str(packed[0]), "a compressed tar", "an uncompressed one", "unpack it first, with gunzip or its like"))


def _refuse_lists(parquets: Iterable[Path]) -> None:
    """What img2dataset writes as `files`: NAME.parquet lists the captions of images that lie loose in NAME/."""
    for file in parquets:
        folder = file.with_suffix("")
        if not isinstance(file, RemotePath) and folder.is_dir() and any(is_image(entry.name) for entry in folder.iterdir()):
            found, do = f"a list of the images that lie in {folder.name}/", "let img2dataset write --output_format webdataset, or parquet"
            raise DatasetError(Problem(str(file), found, "Parquet that holds its images", do))


def _of_split(folder: Path, files: Sequence[Path], split: str | None) -> list[Path]:
    stated = _stated_splits(folder, files)
    splits = {file: stated.get(file.name) or split_word(file.relative_to(folder).as_posix()) for file in files}
    found = sorted({name for name in splits.values() if name})
    if not found and split in (None, "train"):
        return list(files)
    if found and (nameless := [file for file in files if not splits[file]]):
        what, expected = f"{len(nameless)} shards that name no split, such as {nameless[0].name}", f"a split as in {files[-1].name}"
        raise DatasetError(Problem(str(folder), what, expected, "name the shards by a pattern, such as 'DIR/train-*.tar'"))
    wanted = _wanted_split(folder, found, split)
    return [file for file in files if splits[file] == wanted]


def _stated_splits(folder: Path, files: Sequence[Path]) -> dict[str, str]:
    """The splits of shards by name, as timm's _info.json states them, or the state.json of save_to_disk."""
    for name in ("_info.json", "info.json"):
        try:
            splits = json.loads((folder / name).read_text(encoding="utf-8"))["splits"]
            return {shard: check_split(split, str(folder / name)) for split, entry in splits.items() for shard in entry["filenames"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    split, shards = read_state(folder) if any(file.suffix == ".arrow" for file in files) else ("", [])
    return dict.fromkeys(shards, split) if split else {}


def _split_of(shard: Path) -> str:
    """The split of a shard: as a file beside it states, by its name, else train."""
    return _stated_splits(shard.parent, [shard]).get(shard.name) or split_word(shard.name) or "train"
