"""Key rules: what yields a row's key, and what is refused as a rule or as a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.errors import CatalogError, DatasetError
from corruptkit.formats.keys import check_key, check_rule, make_keyer
from tests.corruptkit.strategies import examples

FILE = "src/train-0003.tar"
PLACE = ("n01440764/n01440764_10026", "train-0003.tar", 41)


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("sample", "n01440764/n01440764_10026"),
        ("stem", "n01440764_10026"),
        ("shard/key", "train-0003/n01440764/n01440764_10026"),
        ("ordinal", "row-000000000041"),
        (r"regex:_(\d+)$", "10026"),
        ("regex:(?:^|/)(n[0-9]+)_", "n01440764"),
        (r"regex:(\d)(\d)", "0"),
        ("json:key", None),
        ("json:a:b", None),
    ],
)
def test_rule_yields_the_key(rule: str, key: str | None) -> None:
    assert check_rule(rule) == rule
    assert make_keyer(rule, FILE)(*PLACE) == key


def test_stem_of_a_sample_without_folder_is_the_sample() -> None:
    assert make_keyer("stem", FILE)("0001", "a.tar", 0) == "0001"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("sampel", "did you mean 'sample'?"),
        ("stemm", "did you mean 'stem'?"),
        ("shard", "did you mean 'shard/key'?"),
        ("ordinals", "did you mean 'ordinal'?"),
        ("json", "did you mean 'json:FIELD'?"),
        ("json:", "did you mean 'json:FIELD'?"),
        ("regex:", "did you mean 'regex:R'?"),
        ("", "valid are: json:FIELD, ordinal, regex:R, sample, shard/key, stem"),
        ("path", "unknown key rule 'path' for webdataset"),
        ("column:id", "unknown key rule 'column:id' for webdataset"),
        ("SAMPLE", "unknown key rule 'SAMPLE'"),
        ("regex:n[0-9]+", "it has no group; put the key in one ( ) group"),
        ("regex:(", "cannot be used: missing ), unterminated subpattern"),
        ("regex:*", "cannot be used: nothing to repeat"),
        ("x\x1b[31m\u202e", r"x\x1b[31m\u202e"),
    ],
)
def test_unknown_rule_is_refused_with_the_nearest_word(rule: str, said: str) -> None:
    with pytest.raises(CatalogError) as caught:
        check_rule(rule)
    text = str(caught.value)
    assert text.startswith("--key: ")
    assert said in text
    assert text.isprintable()


@pytest.mark.parametrize("rule", ["regex:(z+)", "regex:(z)?n"])
def test_sample_without_a_match_is_named(rule: str) -> None:
    with pytest.raises(DatasetError, match=r"^src/train-0003\.tar, n01440764/n01440764_10026: no match of .*; mend the --key rule$"):
        make_keyer(rule, FILE)(*PLACE)


def test_empty_group_is_told_by_its_rule() -> None:
    with pytest.raises(DatasetError, match=r"^src/train-0003\.tar, n01440764/n01440764_10026: an empty group of .*; mend the --key rule$"):
        make_keyer("regex:(z*)", FILE)(*PLACE)


@pytest.mark.parametrize(
    "key", ["a", "a/b", "a..b", "..a", "a../b", "...", " ", "é", "e\u0301", "😀", "\u202e", "a\\b", "%2E", "-", "~", "\ufeff", "\u2028"]
)
def test_odd_key_is_a_key(key: str) -> None:
    assert check_key(key, "a.tar") == key


@pytest.mark.parametrize(
    ("key", "reason"),
    [("", "an empty key")]
    + [(f"a{chr(c)}b", "a control character") for c in (*range(32), *range(0x7F, 0xA0))]
    + [(f"a{c}b", "a lone surrogate") for c in "\ud800\udfff"]
    + [(key, "a key that leaves its folder") for key in ("/", "/a", "//a", "..", "../a", "a/..", "a/../b", "/..")],
)
def test_bad_key_is_refused_printably(key: str, reason: str) -> None:
    with pytest.raises(DatasetError) as caught:
        check_key(key, "a.tar")
    text = str(caught.value)
    assert reason in text
    assert text.endswith("expected a key as SPEC.md section 1 allows it; rename the sample")
    assert text.isprintable()


@examples(300)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_key_is_refused_exactly_where_the_specification_says(key: str) -> None:
    control = any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in key)
    allowed = key != "" and not control and not key.startswith("/") and ".." not in key.split("/")
    if allowed:
        assert check_key(key, "a.tar") == key
    else:
        with pytest.raises(DatasetError):
            check_key(key, "a.tar")
