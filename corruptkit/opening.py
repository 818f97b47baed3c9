"""Opening what lies on a disk: a source as its layout says, a variant as its manifest says, and the source below a variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from corruptkit.corruptions.embeddings import Embeddings
from corruptkit.dataset import Dataset
from corruptkit.digest import sha256_hex
from corruptkit.errors import CatalogError, DatasetError, IntegrityError, Problem, nearest_word, strip_secrets
from corruptkit.files import local_path
from corruptkit.formats import FORMATS, arrow, parquet
from corruptkit.formats.conditions import FIELDS, Columns, FieldName
from corruptkit.formats.excluded import read_excluded
from corruptkit.formats.keys import check_rule
from corruptkit.formats.layout import KeyEncoding, Layout
from corruptkit.formats.overlay import read_edits
from corruptkit.formats.shards import Found, find_shards
from corruptkit.formats.splits import asked_split
from corruptkit.formats.table import class_names
from corruptkit.manifest import FOLDER, Manifest, manifest_path, read_manifest
from corruptkit.recipe import Recipe, drops_labels, load_embeddings, recipe_from_identity
from corruptkit.remote import RemotePath, is_pattern, source_path
from corruptkit.servers import SCHEMES

_NESTED = 16  # overlays over overlays, at most


def open_dataset(  # noqa: PLR0913 - each is a question that a source may leave open
    path: str | Path,
    *,
    source: str | Path | None = None,
    split: str | None = None,
    key: str | None = None,
    classes: int | None = None,
    label_column: str = "",
    caption_column: str = "",
    image_column: str = "",
    fields: Sequence[FieldName] = (),
    bad: Literal["refuse", "exclude"] = "refuse",
) -> Dataset:
    """Open a data set as it lies (tars, Parquet, Arrow, a folder of images), or a variant, whose manifest answers every question.

    `source` says where the source of an overlay lies, if not where its manifest says. A row without one of the `fields`, or
    without a field whose column is named, is a bad one; bad rows are refused, or are no rows. Raises DatasetError, IntegrityError.
    """
    place = source_path(path)
    if bad not in ("refuse", "exclude"):
        raise CatalogError(Problem("bad", f"found '{bad}'", do=nearest_word(bad, ("refuse", "exclude"))))
    columns = Columns(label_column, caption_column, image_column)
    folder = _is_folder(place)
    if folder and manifest_path(place).exists():
        given = {
            "split": asked_split(split),
            "key": key,
            "classes": classes,
            "label_column": label_column,
            "caption_column": caption_column,
        }
        return _refuse_flags(open_variant(place, source), given | {"image_column": image_column})
    if folder and (place / FOLDER / "partial").exists():
        do = "start the same `corruptkit make` again to finish it"
        raise DatasetError(Problem(str(place), "an unfinished variant", "a finished one", do))
    found = _refuse_format(find_shards(place, split))
    rule = check_rule(key, found.format) if key else FORMATS[found.format].find_rule(found.shards[0])
    needed = {*fields, *_named_fields(columns)}
    names = found.class_names or _stated_classes(found, label_column)
    layout = Layout(rule, columns, found.format, "source", tuple(sorted(needed)), names)
    known = place if place.is_dir() else place.parent if is_pattern(place) else place.with_suffix("")
    name = strip_secrets(known.resolve().name)
    count = classes if classes is not None else len(names) or None
    return Dataset(place, name, found.shards, layout, found.split, count, root=found.root, exclude=bad == "exclude")


def _is_folder(place: Path) -> bool:
    """Whether a variant may lie at a path; of one on a server that is decided without asking for what lies in it."""
    if not isinstance(place, RemotePath):
        return True
    return not is_pattern(place) and place.suffix not in (".tar", ".parquet", ".arrow") and place.exists()


def _named_fields(columns: Columns) -> list[FieldName]:
    """The fields whose columns are named: every row must have them."""
    return [field for field in FIELDS if getattr(columns, field)]


def _stated_classes(found: Found, label_column: str) -> tuple[str, ...]:
    """The class names that `datasets` keeps in the metadata of a table."""
    if found.format not in ("parquet", "arrow"):
        return ()
    return class_names((parquet if found.format == "parquet" else arrow).read_schema(found.shards[0]), label_column)


def _refuse_flags(variant: Dataset, given: dict[str, str | int | None]) -> Dataset:
    """A variant's manifest says how to read it: what is stated besides must say the same."""
    columns = variant.layout.columns
    known = {
        "split": variant.split,
        "key": variant.layout.key_rule,
        "classes": variant.classes,
        "label_column": columns.label,
        "caption_column": columns.caption,
        "image_column": columns.image,
    }
    for name, value in given.items():
        if value not in (None, "") and value != known[name]:
            flag, do = f"--{name.replace('_', '-')}", "leave it out: the manifest of a variant says it"
            raise CatalogError(Problem(str(variant.path), f"{flag} {value!r:.40}", f"{known[name]!r:.40}", do, key=name))
    return variant


def open_variant(place: Path, source: str | Path | None = None, *, depth: int = _NESTED) -> Dataset:
    """Open a variant by its manifest."""
    manifest = read_manifest(place)
    made = manifest.circumstance
    if made.format == "overlay":
        below = open_source(place, manifest, source, depth=depth)
        opened = replace(below, path=place, manifest=manifest, null_label=below.null_label or drops_labels(manifest.identity["recipe"]))
        plan = place / FOLDER / "plan.parquet"
        return replace(opened.with_edits(read_edits(plan), str(plan)), name=place.resolve().name)
    found = Found(made.format, place, tuple(place / shard.name for shard in manifest.shards), manifest.identity["source"]["split"])
    opened = _as_source(place, manifest, found, made.key_encoding)
    null_label = opened.null_label or drops_labels(manifest.identity["recipe"])
    return replace(opened, name=place.resolve().name, manifest=manifest, null_label=null_label)


def stored_recipe(place: Path, manifest: Manifest, embeddings: str | Path | None = None) -> Recipe:
    """The recipe of a variant, from its identity and the content that lies beside it; embeddings lie where they are said to."""
    inputs: dict[str, bytes | Embeddings] = {}
    for record in manifest.files:
        if record.path.startswith(f"{FOLDER}/inputs/"):
            content = (place / record.path).read_bytes()
            inputs[sha256_hex(content)] = content
    if embeddings is not None:
        found = load_embeddings(local_path(embeddings))
        inputs[found.digest] = found
    return recipe_from_identity(manifest.identity["recipe"], inputs, str(place / FOLDER / "manifest.json"))


def open_source(place: Path, manifest: Manifest, source: str | Path | None = None, *, depth: int = _NESTED, trust: bool = True) -> Dataset:
    """The source of a variant, where it was or where `source` says, checked by its fingerprint.

    Without `trust`, an index that lies in the folder of a variant, where anybody may have put it, is not read.
    """
    where = source_path(source) if source else _find_source(place, manifest)
    if not is_pattern(where) and not where.exists():
        found, expected = "the variant's source is not there", "the source it was made of"
        raise DatasetError(Problem(str(where), found, expected, "state --source PATH", key=str(place)))
    known = manifest.identity["source"]
    if not depth:
        raise DatasetError(Problem(str(place), f"more than {_NESTED} overlays over each other", do="materialise one of them"))
    if manifest_path(where).exists():
        below = open_variant(where, depth=depth - 1)
    else:
        below = _as_source(where, manifest, _find_again(where, known["split"]), "source", place)
    found = below.index(cache=trust or below.manifest is None).meta.fingerprint
    if found != known["fingerprint"]:
        expected, do = f"fingerprint {known['fingerprint'][:16]}...", "name the source that the variant was made of"
        raise IntegrityError(Problem(str(where), f"fingerprint {found[:16]}...", expected, do, key=str(place)))
    return below


def _find_source(place: Path, manifest: Manifest) -> Path:
    """Where a manifest says that the source lies; anybody may have written it, so that it names no scheme but the usual ones."""
    known = manifest.source.source_url
    if "://" in known:
        if known.partition("://")[0] not in SCHEMES:
            raise DatasetError(Problem(known, "the manifest's source", f"one of {', '.join(SCHEMES)}", "state --source", key=str(place)))
        return source_path(known)
    places = [Path(known), place / manifest.circumstance.source_path]
    return next((path for path in places if path.exists()), places[0])


def _refuse_format(found: Found) -> Found:
    """Arrow files are mapped, and folders of images are a request an image: neither is read from afar."""
    if isinstance(found.root, RemotePath) and found.format not in ("webdataset", "parquet"):
        what = "Arrow files" if found.format == "arrow" else "a folder of images"
        raise DatasetError(Problem(str(found.root), f"{what} on a server", "tars or Parquet", "copy it here first"))
    return found


def _find_again(where: Path, split: str) -> Found:
    """The shards of a source that a manifest names; a copy of one folder of a DatasetDict may state the split it was cut out of."""
    saved = where.is_dir() and not (where / arrow.SAVED_SPLITS).exists() and bool(arrow.read_state(where)[1])
    return _refuse_format(find_shards(where, None if saved else split))


def _as_source(where: Path, manifest: Manifest, found: Found, encoding: KeyEncoding, place: Path | None = None) -> Dataset:
    """Shards to be read as a manifest says that its source was; `place` is the variant, if they are not its own."""
    known, record = manifest.identity["source"], manifest.source
    own = encoding == "source"
    columns = Columns(record.label_column, record.caption_column, record.image_column) if own else Columns()
    needed = _named_fields(columns)
    rule = check_rule(known["key_rule"], found.format) if own else known["key_rule"]
    layout = Layout(rule, columns, found.format, encoding, tuple(sorted(needed)), found.class_names or record.class_names)
    excluded = read_excluded(place or where, [shard.name for shard in record.shards]) if own and manifest.counts.excluded else None
    classes, null_label = known["classes"], known.get("null_label", False)
    return Dataset(where, record.name, found.shards, layout, known["split"], classes, null_label, root=found.root, excluded=excluded)
