"""The manifest: what is read back, what is refused, and what never gets in."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.cli import main
from corruptkit.errors import CorruptkitError, DatasetError, IntegrityError, strip_secrets
from corruptkit.manifest import (
    Manifest,
    checksum_line,
    command_line,
    describe_circumstance,
    differing_fields,
    parse_manifest,
    read_manifest,
    utc_now,
)
from corruptkit.opening import open_dataset
from corruptkit.verify import verify
from tests.corruptkit import oracle
from tests.corruptkit.cases import full_case, make_variant
from tests.corruptkit.damage import Json, write_manifest
from tests.corruptkit.shards import HIDDEN
from tests.corruptkit.strategies import examples, oracle_rows


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return full_case(tmp_path_factory.mktemp("manifest")).make("variant")


@pytest.fixture
def table(variant: Path) -> Json:
    found: Json = json.loads((variant / HIDDEN / "manifest.json").read_bytes())
    return found


def parse(table: Any) -> Manifest:
    return parse_manifest(json.dumps(table).encode(), "m.json")


def refuse(content: bytes, kind: type[CorruptkitError] = IntegrityError) -> str:
    with pytest.raises(kind) as caught:
        parse_manifest(content, "m.json")
    return str(caught.value)


def sign_identity(table: Json) -> Json:
    """The table with the id that its identity has."""
    return table | {"variant_id": oracle.variant_id(table["identity"])}


def change(table: Json, *path: str | int, to: object) -> Json:
    place: Any = table
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    return table


def drop(table: Json, *path: str | int) -> Json:
    place: Any = table
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return table


# What is written


def test_manifest_reads_back_as_it_was_written(variant: Path, table: Json) -> None:
    manifest = read_manifest(variant)
    assert manifest.encode() == (variant / HIDDEN / "manifest.json").read_bytes()
    assert parse_manifest(manifest.encode(), "m.json") == manifest == parse(table)


def test_identity_is_the_specification_s(tmp_path: Path) -> None:
    case = full_case(tmp_path)
    manifest = read_manifest(case.make("variant"))
    expected = oracle.identity(case.recipe, oracle_rows(case.rows), case.classes)
    assert manifest.identity == expected
    assert manifest.variant_id == oracle.variant_id(expected)


def test_records_tell_every_file_as_it_is(variant: Path, table: Json) -> None:
    records = {record["name"]: record for record in table["shards"]} | {record["path"]: record for record in table["files"]}
    found = {path.relative_to(variant).as_posix() for path in variant.rglob("*") if path.is_file()}
    assert records.keys() == found - {f"{HIDDEN}/manifest.json", f"{HIDDEN}/manifest.sha256"}
    for name, record in records.items():
        content = (variant / name).read_bytes()
        assert (record["bytes"], record["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert [record["path"] for record in table["files"]] == sorted(record["path"] for record in table["files"])
    assert [shard["rows"] for shard in table["shards"]] == [20, 20, 20]
    assert list(table) == ["format_version", "variant_id", "identity", "counts", "shards", "files", "source", "circumstance"]


def test_checksums_are_what_sha256sum_reads(variant: Path, table: Json) -> None:
    """FORMAT.md section 8: checking without corruptkit."""
    subprocess.run(["sha256sum", "--check", "--strict", "manifest.sha256"], cwd=variant / HIDDEN, check=True, capture_output=True)
    lines = "".join(f"{shard['sha256']}  {shard['name']}\n" for shard in table["shards"])
    subprocess.run(["sha256sum", "--check", "--strict"], cwd=variant, input=lines, text=True, check=True, capture_output=True)


def test_circumstance_tells_who_when_and_how(variant: Path, table: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    found = table["circumstance"]
    assert set(found["versions"]) == {"python", "corruptkit", "numpy", "pyarrow", "xxhash"}
    assert (found["format"], found["key_encoding"]) == ("webdataset", "source")
    assert found["started"].endswith("+00:00")
    monkeypatch.setattr(sys, "argv", ["/home/somebody/bin/corruptkit", "make", "--out", "x y"])
    assert command_line() == ["corruptkit", "make", "--out", "x y"]
    assert describe_circumstance("overlay", utc_now(), key_encoding="source").command == ("corruptkit", "make", "--out", "x y")
    monkeypatch.setattr(sys, "argv", [])
    assert command_line() == []
    assert str(variant) not in json.dumps(found)


# What is refused


def test_folder_without_manifest_is_told(tmp_path: Path) -> None:
    (tmp_path / HIDDEN).mkdir()
    with pytest.raises(DatasetError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / HIDDEN / 'manifest.json'}: there is no manifest, expected a finished variant; ")


def test_manifest_without_its_checksum_is_refused(tmp_path: Path) -> None:
    (tmp_path / HIDDEN).mkdir()
    write_manifest(tmp_path, b"{}")
    (tmp_path / HIDDEN / "manifest.sha256").unlink()
    with pytest.raises(IntegrityError, match=r"manifest\.sha256: cannot be read"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"0" * 64 + b"  manifest.json\n", b"HASH manifest.json\n", b"HASH  manifest.json", b"HASH *manifest.json\n", b"\xff"],
)
def test_checksum_must_fit_to_the_byte(line: bytes, variant: Path, tmp_path: Path) -> None:
    content = (variant / HIDDEN / "manifest.json").read_bytes()
    (tmp_path / HIDDEN).mkdir()
    write_manifest(tmp_path, content)
    assert read_manifest(tmp_path) == read_manifest(variant)
    assert checksum_line(content) == (tmp_path / HIDDEN / "manifest.sha256").read_bytes()
    (tmp_path / HIDDEN / "manifest.sha256").write_bytes(line.replace(b"HASH", hashlib.sha256(content).hexdigest().encode()))
    with pytest.raises(IntegrityError) as caught:
        read_manifest(tmp_path)
    found = f"{tmp_path / HIDDEN / 'manifest.json'}: does not match manifest.sha256, expected the bytes that were written; do not use it"
    assert str(caught.value) == found


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, [], {}, 1.5, 10**30, "x" * 99, True, 1.0])
def test_other_version_is_refused(version: object, table: Json) -> None:
    said = refuse(json.dumps(table | {"format_version": version}).encode(), DatasetError)
    assert said.startswith("m.json: format_version ")
    assert said.endswith(", expected 1; read it with the corruptkit that wrote it")
    assert len(said) < 140


def test_missing_version_is_refused(table: Json) -> None:
    assert refuse(json.dumps(drop(table, "format_version")).encode(), DatasetError).startswith("m.json: format_version None, expected 1")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"\xff",
        b"{'a': 1}",
        b"{}{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"PK\3\4",
    ],
    ids=lambda content: content[:12].decode(errors="replace"),
)
def test_other_content_is_refused(content: bytes) -> None:
    assert refuse(content) == "m.json: not a JSON object, expected a manifest; do not use it"


def test_enormous_manifest_is_refused() -> None:
    assert "not a JSON object" in refuse(b'{"format_version": 1, "x": "' + b"x" * (64 << 20) + b'"}')


UNKNOWN = [(), ("identity",), ("identity", "source"), ("identity", "recipe"), ("counts",), ("counts", "stages", 0), ("shards", 0)]
UNKNOWN += [("files", 0), ("source",), ("source", "shards", 0), ("circumstance",)]


@pytest.mark.parametrize("path", UNKNOWN, ids=str)
def test_unknown_field_is_refused(path: tuple[str | int, ...], table: Json) -> None:
    assert "unknown field 'sauce'" in refuse(json.dumps(sign_identity(change(table, *path, "sauce", to=1))).encode())


MISSING = [
    ("variant_id",),
    ("identity",),
    ("counts",),
    ("shards",),
    ("files",),
    ("source",),
    ("circumstance",),
    ("identity", "source", "rows"),
]
MISSING += [
    ("identity", "recipe", "seed"),
    ("identity", "plan_digest"),
    ("shards", 1, "sha256"),
    ("files", 0, "path"),
    ("counts", "changed"),
]


@pytest.mark.parametrize("path", MISSING, ids=str)
def test_missing_field_is_refused(path: tuple[str | int, ...], table: Json) -> None:
    said = refuse(json.dumps(drop(table, *path)).encode())
    assert said.startswith(f"m.json, {'.'.join(map(str, path))}: a required field is missing")


WRONG: list[tuple[tuple[str | int, ...], object]] = [
    (("variant_id",), 5),
    (("identity",), []),
    (("identity", "spec"), 2),
    (("identity", "spec"), "1"),
    (("identity", "edits"), "3"),
    (("identity", "edits"), -1),
    (("identity", "edits"), 3.0),
    (("identity", "edits"), True),
    (("identity", "plan_digest"), "x"),
    (("identity", "plan_digest"), "A" * 64),
    (("identity", "source", "rows"), -1),
    (("identity", "source", "rows"), 60.0),
    (("identity", "source", "rows"), True),
    (("identity", "source", "classes"), "4"),
    (("identity", "source", "classes"), 4.0),
    (("identity", "source", "split"), None),
    (("identity", "source", "fingerprint"), "0" * 63),
    (("identity", "source", "null_label"), 1),
    (("identity", "recipe", "seed"), 3),
    (("identity", "recipe", "chain"), {}),
    (("identity", "recipe", "chain", 0), "flip"),
    (("counts", "rows"), "60"),
    (("counts", "changed"), -1),
    (("counts", "stages"), None),
    (("shards",), {}),
    (("shards", 0, "name"), 5),
    (("shards", 0, "bytes"), -1),
    (("shards", 0, "bytes"), 1e300),
    (("shards", 0, "sha256"), ""),
    (("files", 0, "sha256"), "z" * 64),
    (("circumstance", "format"), "zip"),
    (("circumstance", "versions"), []),
    (("circumstance", "command"), "corruptkit make"),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=str)
def test_wrong_type_or_value_is_refused(path: tuple[str | int, ...], value: object, table: Json) -> None:
    refuse(json.dumps(change(table, *path, to=value)).encode())


PATHS = [
    "",
    "/etc/passwd",
    "..",
    "../x.tar",
    "a/../../x.tar",
    "a/..",
    ".",
    "./x.tar",
    "a//b",
    "a/",
    "a\\b",
    "..\\x",
    "a\0b",
    "//x",
    "a/./b",
]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("place", [("shards", 0, "name"), ("files", 0, "path")], ids=str)
def test_path_that_leaves_the_variant_is_refused(place: tuple[str | int, ...], name: str, table: Json) -> None:
    said = refuse(json.dumps(change(table, *place, to=name)).encode())
    assert said.endswith(", expected a path inside the variant; do not use it")
    assert "\0" not in said


@pytest.mark.parametrize("name", ["x.tar", "a/b/x.tar", "..x", "x..tar", "été.tar", " .tar"])
def test_path_inside_the_variant_is_not(name: str, table: Json) -> None:
    assert parse(change(table, "shards", 0, "name", to=name)).shards[0].name == name


@pytest.mark.parametrize("to", ["0" * 16, "", "x", "F" * 16])
def test_id_that_does_not_fit_the_identity_is_refused(to: str, table: Json) -> None:
    expected = oracle.variant_id(table["identity"])
    said = refuse(json.dumps(change(table, "variant_id", to=to)).encode())
    assert said == f"m.json, variant_id: the identity's id {expected}" + (f", expected {to}" if to else "") + "; do not use it"


@pytest.mark.parametrize("field", ["seed", "key_rule", "fingerprint", "plan_digest", "edits", "ratio"])
def test_identity_that_was_changed_has_another_id(field: str, table: Json) -> None:
    identity = table["identity"]
    places = {"seed": identity["recipe"], "ratio": identity["recipe"]["chain"][0], "edits": identity, "plan_digest": identity}
    place = places.get(field, identity["source"])
    place[field] = 7 if field == "edits" else "f" * 64
    assert "the identity's id" in refuse(json.dumps(table).encode())


@pytest.mark.parametrize("value", [0.5, 1e5, float("nan"), float("inf"), [0.1], {"a": {"b": 0.1}}])
def test_float_in_an_identity_is_refused(value: object, table: Json) -> None:
    said = refuse(json.dumps(change(table, "identity", "recipe", "chain", 0, "ratio", to=value)).encode())
    assert "a float has no canonical form" in said
    assert said.endswith("expected an identity without floats; do not use it")


@pytest.mark.parametrize("depth", [20, 150, 190, 250, 900])
def test_deep_identity_is_refused_or_has_an_id(depth: int, table: Json) -> None:
    table = change(table, "identity", "recipe", "chain", 0, "where", to=json.loads("[" * depth + "]" * depth))
    assert refuse(json.dumps(table).encode()).startswith("m.json")


@pytest.mark.parametrize(
    "path", [("identity", "recipe", "seed"), ("identity", "recipe", "chain", 0, "mode"), ("source", "name"), ("shards", 0, "name")]
)
def test_lone_surrogate_is_refused(path: tuple[str | int, ...], table: Json) -> None:
    refuse(json.dumps(change(table, *path, to="\ud800")).encode())


def test_control_characters_do_not_reach_a_terminal(table: Json) -> None:
    said = refuse(json.dumps(change(table, "shards", 0, "name", to="../\x1b[31m\u202e")).encode())
    assert not {"\x1b", "\u202e"} & set(said)


def test_name_stated_twice_counts_once(table: Json) -> None:
    """Every reader takes the last of a repeated name; so no part of a manifest can say two things."""
    content = json.dumps(table)
    assert parse_manifest(content.replace("{", '{"format_version": 9, ', 1).encode(), "m.json") == parse(table)
    with pytest.raises(DatasetError):
        parse_manifest((content[:-1] + ', "format_version": 9}').encode(), "m.json")


def test_every_command_that_reads_a_manifest_refuses_a_broken_one(
    variant: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v" / HIDDEN).mkdir(parents=True)
    write_manifest(tmp_path / "v", (variant / HIDDEN / "manifest.json").read_bytes().replace(b'"spec": 1', b'"spec": 2'))
    place = str(tmp_path / "v")
    words = [["show", place], ["restore", place, "--out", str(tmp_path / "out")], ["diff", place, str(variant)], ["index", place]]
    for command in [*words, ["make", "--source", place, "--swap", "0.5", "--out", str(tmp_path / "out")]]:
        assert main(command) == 2
        assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'v' / HIDDEN / 'manifest.json'}, identity.spec: ")
    assert main(["verify", place]) == 1
    assert verify(tmp_path / "v").manifest is None
    assert not (tmp_path / "out").exists()


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def list_places(table: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value in a table."""
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    return [place for name, value in items for place in [(*path, name), *list_places(value, (*path, name))]]


@examples(300)
@given(data=st.data())
def test_any_value_anywhere_is_refused_or_read(data: st.DataObject, variant: Path) -> None:
    """Nothing but a CorruptkitError comes out, whatever stands where."""
    table = json.loads((variant / HIDDEN / "manifest.json").read_bytes())
    path = data.draw(st.sampled_from(list_places(table)))
    table = change(table, *path, to=data.draw(JSONS))
    with suppress(CorruptkitError):
        assert parse_manifest(json.dumps(table).encode(), "m.json").format_version == 1


# Secrets


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("", ""),
        ("plain words", "plain words"),
        ("/a/b?c#d@e", "/a/b?c#d@e"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("s3://user:hunter2@bucket/key?hunter2#hunter2", "s3://bucket/key"),
        ("https://hunter2@host:80/", "https://host:80/"),
        ("https://a@hunter2@host/", "https://host/"),
        ("--source=gs://a:hunter2@b/c", "--source=gs://b/c"),
        ("s3://a:hunter2@b/c s3://d/e?hunter2", "s3://b/c s3://d/e"),
        ("hf://datasets/a/b@main?token=hunter2", "hf://datasets/a/b@main"),
        ("git+ssh://hunter2@h/x", "git+ssh://h/x"),
        ("HTTPS://u:hunter2@H/x", "https://H/x"),
        ("https://u:hunter2@h", "https://h"),
        ("https://h?hunter2", "https://h"),
    ],
)
def test_urls_lose_user_info_query_and_fragment(text: str, bare: str) -> None:
    assert strip_secrets(text) == bare


@pytest.mark.parametrize(
    "text", ["s3://[", "s3://]x", "http://[::1", "http://[hunter2]/", "http://h:99999999/", "x://", "http://\u2100/", "http://a\u2044b"]
)
def test_odd_urls_are_no_error(text: str) -> None:
    assert isinstance(strip_secrets(text), str)


@examples(300)
@given(st.text(alphabet=st.sampled_from(list("aZ1:/@?#[]%. \u2100")), max_size=30))
def test_no_text_is_an_error_for_secrets(text: str) -> None:
    bare = strip_secrets(f"s3://{text}")
    assert "?" not in bare.split(" ")[0]


# Comparing identities


def test_differing_fields_are_named_by_their_path() -> None:
    mine: Json = {"a": 1, "b": {"c": [1, 2], "d": "x", "e": {"f": 1}}, "g": None}
    theirs: Json = {"a": 1, "b": {"c": [2, 1], "d": "x", "e": {"f": 2}}, "h": {"i": 1}}
    assert differing_fields(mine, theirs) == [("b.c", [1, 2], [2, 1]), ("b.e.f", 1, 2), ("h", None, {"i": 1})]
    assert differing_fields(mine, mine) == []
    assert differing_fields({"a": {"b": 1}}, {"a": 5}) == [("a", {"b": 1}, 5)]
    assert differing_fields({"a": 1}, {"a": True}) == [("a", 1, True)]


def test_same_source_and_recipe_give_one_id_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the circumstance, such as the folder, the name or the command, reaches the identity."""
    first, second = full_case(tmp_path / "a b"), full_case(tmp_path / "c")
    made = read_manifest(first.make("one"))
    monkeypatch.setattr(sys, "argv", ["other", "words"])
    again = read_manifest(second.make("two"))
    assert (again.identity, again.variant_id) == (made.identity, made.variant_id)
    assert again.source.source_url != made.source.source_url
    assert again.circumstance.command != made.circumstance.command


def test_written_manifest_is_what_is_returned_and_read(tmp_path: Path) -> None:
    case = full_case(tmp_path)
    _, written = make_variant(case.recipe, open_dataset(case.source, classes=4), tmp_path / "variant")
    assert written == read_manifest(tmp_path / "variant") == open_dataset(tmp_path / "variant").manifest
    assert open_dataset(case.source).manifest is None
