"""The manifest: what a variant is (identity, hashed) and how it came about (circumstance). FORMAT.md section 2."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, ValidationError, with_config
from typing_extensions import TypedDict

from corruptkit.digest import canonical_json, sha256_hex, variant_id
from corruptkit.errors import DatasetError, IntegrityError, Problem, strip_secrets, validation_problems
from corruptkit.formats.splits import NAME_RULE, is_split

FOLDER = ".corruptkit"
FORMAT_VERSION = 1
_LARGEST = 64 << 20
_ADVICE = "finish it with `corruptkit make`; a source is for `corruptkit index`"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(strict=True, ge=0)]


def _relative(name: str) -> bool:
    return bool(name) and not name.startswith("/") and "\\" not in name and not {"", ".", ".."} & set(name.split("/")) and "\0" not in name


_STRICT = ConfigDict(extra="forbid", strict=True)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@with_config(_STRICT)
class SourceIdentity(TypedDict):
    """What decides a plan about a source: SPEC.md section 5."""

    rows: Count
    split: str
    key_rule: str
    fingerprint: Sha256
    classes: int | None
    null_label: NotRequired[bool]


@with_config(_STRICT)
class RecipeIdentity(TypedDict):
    """A recipe with every default written out, content by digest."""

    seed: str
    chain: list[dict[str, Any]]


@with_config(_STRICT)
class Identity(TypedDict):
    """What a variant is, apart from its images; its canonical JSON gives the variant_id."""

    spec: Literal[1]
    source: SourceIdentity
    recipe: RecipeIdentity
    edits: Count
    plan_digest: Sha256


class ShardRecord(_Part):
    """A shard of a variant."""

    name: str
    rows: Count
    bytes: Count
    sha256: Sha256
    edits: Count


class FileRecord(_Part):
    """Another file of a variant: the plan, the originals, content of the recipe, side files."""

    path: str
    bytes: Count
    sha256: Sha256


class SourceShard(_Part):
    """A shard of the source; sha256 is "" where nobody has computed it."""

    name: str
    bytes: Count
    sha256: str = ""


class SourceRecord(_Part):
    """Where the source was, and the id of the variant that it is, if it is one."""

    name: str
    source_url: str
    variant_id: str = ""
    label_column: str = ""
    caption_column: str = ""
    image_column: str = ""
    class_names: tuple[str, ...] = ()  # by label, where the source names its classes
    shards: tuple[SourceShard, ...] = ()


class StageRecord(_Part):
    """What a stage found and did."""

    kind: str
    eligible: Count
    selected: Count
    edits: Count


class CountRecord(_Part):
    """Counts of rows; effective_ratio is changed / rows as decimal text."""

    rows: Count
    excluded: Count
    stages: tuple[StageRecord, ...]
    changed: Count
    effective_ratio: str


class Circumstance(_Part):
    """Who, when, where and how: nothing here is part of the identity."""

    versions: dict[str, str]
    command: tuple[str, ...]
    started: str
    finished: str
    format: Literal["webdataset", "parquet", "arrow", "overlay"]
    key_encoding: Literal["source", "percent", "column"]
    catalog_digest: str = ""
    source_path: str = ""  # from the variant's folder to the source
    source_times: tuple[int, ...] = ()  # nanoseconds, of each of the source's shards


class Manifest(_Part):
    """All that a variant says about itself."""

    format_version: Literal[1]
    variant_id: str
    identity: Identity
    counts: CountRecord
    shards: tuple[ShardRecord, ...]
    files: tuple[FileRecord, ...]
    source: SourceRecord
    circumstance: Circumstance

    def encode(self) -> bytes:
        """The file's bytes."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode()


def manifest_path(folder: Path) -> Path:
    """Where a variant's manifest lies."""
    return folder / FOLDER / "manifest.json"


def checksum_line(content: bytes) -> bytes:
    """What manifest.sha256 holds, as `sha256sum -c` reads it."""
    return f"{sha256_hex(content)}  manifest.json\n".encode()


def read_manifest(folder: Path) -> Manifest:
    """A variant's manifest, checked against its checksum file and its own id. Raises DatasetError where there is none."""
    path = manifest_path(folder)
    try:
        content = path.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        found, expected = "there is no manifest" if missing else f"cannot be read: {error.strerror}", "a finished variant"
        raise DatasetError(Problem(str(path), found, expected, _ADVICE)) from None
    try:
        checksum = path.with_name("manifest.sha256").read_bytes()
    except OSError as error:
        found, expected = f"cannot be read: {error.strerror}", "the checksum of manifest.json"
        raise IntegrityError(Problem(str(path.with_name("manifest.sha256")), found, expected, "do not use it")) from None
    if checksum != checksum_line(content):
        raise IntegrityError(Problem(str(path), "does not match manifest.sha256", "the bytes that were written", "do not use it"))
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, file: str) -> Manifest:
    """A manifest from its bytes, refused unless every part of it is as FORMAT.md says."""
    table = _load_table(content, file)
    number = table.get("format_version")
    if type(number) is not int or number != FORMAT_VERSION:
        found = f"format_version {number!r:.40}"
        raise DatasetError(Problem(file, found, str(FORMAT_VERSION), "read it with the corruptkit that wrote it"))
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise IntegrityError(*validation_problems(error, file, do="do not use it")) from None
    if (manifest.circumstance.format == "overlay") == bool(manifest.shards):
        found = f"format {manifest.circumstance.format} with {len(manifest.shards)} shards"
        raise IntegrityError(Problem(file, found, "shards, or an overlay without any", "do not use it", key="circumstance.format"))
    for name in [shard.name for shard in manifest.shards] + [record.path for record in manifest.files]:
        if not _relative(name):
            raise IntegrityError(Problem(file, f"the path {name!r}", "a path inside the variant", "do not use it"))
    if not is_split(split := manifest.identity["source"]["split"]):
        raise IntegrityError(Problem(file, f"the split {split!r:.60}", NAME_RULE, "do not use it", key="identity.source.split"))
    try:
        found = variant_id(manifest.identity)
    except TypeError as error:
        raise IntegrityError(Problem(file, str(error), "an identity without floats", "do not use it")) from None
    if found != manifest.variant_id:
        raise IntegrityError(Problem(file, f"the identity's id {found}", manifest.variant_id, "do not use it", key="variant_id"))
    return manifest


def _load_table(content: bytes, file: str) -> dict[str, Any]:
    try:
        table = json.loads(content) if len(content) <= _LARGEST else None
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise IntegrityError(Problem(file, "not a JSON object", "a manifest", "do not use it"))
    return table


def describe_circumstance(format: Literal["webdataset", "parquet", "arrow", "overlay"], started: str, **more: Any) -> Circumstance:
    """The circumstance block of a variant that is finished now; `more` are fields that only the writer knows."""
    names = ("corruptkit", "numpy", "pyarrow", "xxhash")
    return Circumstance(
        versions={"python": platform.python_version()} | {name: version(name) for name in names},
        command=tuple(strip_secrets(word) for word in command_line()),
        started=started,
        finished=utc_now(),
        format=format,
        **more,
    )


def utc_now() -> str:
    """The time, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> list[str]:
    """How this process was started, without its folder."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else []


def differing_fields(mine: Mapping[str, Any], theirs: Mapping[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    """The fields in which two identities differ, deepest names first found: (path, mine, theirs)."""
    found = []
    for name in sorted(mine.keys() | theirs.keys()):
        a, b, where = mine.get(name), theirs.get(name), f"{path}{name}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differing_fields(a, b, f"{where}.")
        elif canonical_json(a) != canonical_json(b):
            found.append((where, a, b))
    return found
