"""SPEC.md sections 2 to 5 once more, slow and plain: dicts, integers and fractions, written from that page and not from the library.

A recipe is what an identity holds: `{"seed": text, "chain": [{"kind", "mode", "ratio", "of", "where", ...}]}` with canonical texts, but
groups, matrices and key files stand as themselves. Rows are `{key: (label or None, caption or None)}`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import xxhash

Rows = Mapping[str, tuple[int | None, str | None]]
Stage = Mapping[str, Any]
WORD = 2**64
FIELDS = ("label", "caption")  # the numbers of section 1
ASCII_LOWER = {c: c + 32 for c in range(ord("A"), ord("Z") + 1)}
SPACES = "\t\n\v\f\r "


class Edit(NamedTuple):
    """A line of plan.parquet, without its shard."""

    key: str
    stage: int
    kind: str
    field: str
    old: str
    new: str
    donor: str
    rank: int


class Place(NamedTuple):
    """What a draw depends on besides its kind and its purpose."""

    seed: str
    stage: int
    key: str


# Section 2


def h(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode(), seed=0)


def mix64(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def below(u: int, m: int) -> int:
    assert 0 < m < 2**32
    return ((u >> 32) * m) >> 32


def draw(seed: str, kind: str, stage: int, purpose: str, key: str) -> int:
    name = kind if stage == 0 else f"{kind}@{stage}"
    return mix64(h(key) ^ h(f"corruptkit:1:{seed}:{name}:{purpose}"))


# Section 3


def words_of(caption: str) -> list[str]:
    for space in SPACES:
        caption = caption.replace(space, " ")
    return [word for word in caption.split(" ") if word]


def passes_where(where: Mapping[str, Any] | None, key: str, label: int | None, caption: str | None) -> bool:
    """A field that asks for what a row has not got lets nothing through."""
    tests = {
        "classes": lambda wanted: label is not None and label in wanted,
        "keys_file": lambda wanted: key in wanted,
        "caption_contains": lambda wanted: caption is not None and wanted in caption,
        "min_words": lambda wanted: caption is not None and len(words_of(caption)) >= wanted,
        "max_words": lambda wanted: caption is not None and len(words_of(caption)) <= wanted,
    }
    return all(tests[field](wanted) for field, wanted in (where or {}).items())


def class_counts(rows: Rows, classes: int) -> Counter[int]:
    return Counter(label for label, _ in rows.values() if label is not None and label < classes)


def can_flip(stage: Stage, label: int | None, counts: Counter[int], classes: int) -> bool:
    if label is None or label >= classes:  # label K is the declared null label
        return False
    mode = stage["mode"]
    if mode in ("uniform", "pair"):
        return classes >= 2
    if mode == "prior":
        return any(counts[j] for j in range(classes) if j != label)
    if mode == "within":
        return any(label in group and len(group) >= 2 for group in stage["groups"])
    if mode == "matrix":
        return sum(Fraction(weight) for j, weight in enumerate(stage["matrix"][label]) if j != label) > 0
    assert mode == "redraw"
    return True


def can_change(place: Place, stage: Stage, label: int | None, caption: str | None, counts: Counter[int], classes: int) -> bool:
    if stage["kind"] == "rewrite":
        return caption is not None and stage["texts"].get(drawn_cell(place, stage)) != caption
    if stage["kind"] == "flip":
        return can_flip(stage, label, counts, classes)
    if stage["kind"] == "swap":
        return caption is not None and (stage["mode"] != "within" or (label is not None and label < classes))
    if stage["kind"] == "words":
        return caption is not None and can_edit(stage["mode"], words_of(caption), stage["vocabulary"])
    if (stage["kind"], stage["mode"]) == ("drop", "label"):
        return label is not None and label < classes
    wanted = fixed_caption(stage, label, classes)
    return caption is not None and wanted is not None and caption != wanted


def drawn_cell(place: Place, stage: Stage) -> tuple[str, int]:
    """The cell of a table that a row draws: its key, and a level."""
    seed, number, key = place
    return key, 1 + below(draw(seed, "rewrite", number, "level", key), stage["levels"])


def with_texts(stage: Stage) -> Stage:
    """The stage of a rewrite, with its table by cell."""
    return stage if stage["kind"] != "rewrite" else {**stage, "texts": {(key, level): text for key, level, text in stage["table"]}}


def half_up(ratio: str, population: int) -> int:
    """Give floor(ratio * N + 1/2)."""
    exact = Fraction(ratio) * population + Fraction(1, 2)
    return exact.numerator // exact.denominator


def rank_eligible(seed: str, number: int, stage: Stage, rows: Rows, classes: int) -> list[str]:
    """E in the order of its ranking."""
    counts = class_counts(rows, classes)
    eligible = [
        key
        for key, (label, caption) in rows.items()
        if passes_where(stage["where"], key, label, caption)
        and can_change(Place(seed, number, key), stage, label, caption, counts, classes)
    ]
    return sorted(eligible, key=lambda key: (draw(seed, stage["kind"], number, "rank", key), key.encode()))


def wanted_rows(stage: Stage, total: int, eligible: int) -> int:
    return min(half_up(stage["ratio"], total if stage["of"] == "all" else eligible), eligible)


# Section 4


def quantise_row(weights: Sequence[str], diagonal: int) -> list[int]:
    exact = [Fraction(0) if j == diagonal else Fraction(weight) for j, weight in enumerate(weights)]
    shares = [weight / sum(exact) * 2**32 for weight in exact]
    whole = [share.numerator // share.denominator for share in shares]
    remainders = [share - floor for share, floor in zip(shares, whole, strict=True)]
    while sum(whole) < 2**32:
        largest = remainders.index(max(remainders))  # the first, so the lower class
        whole[largest] += 1
        remainders[largest] = Fraction(-1)
    return whole


def first_past(weights: Sequence[int], r: int) -> int:
    """The first class whose running sum exceeds r."""
    for j, weight in enumerate(weights):
        if r < weight:
            return j
        r -= weight
    raise AssertionError("r is below the sum")


def target_class(stage: Stage, u: int, y: int, counts: Counter[int], classes: int) -> int:
    mode = stage["mode"]
    if mode == "uniform":
        r = below(u, classes - 1)
        return r if r < y else r + 1
    if mode == "prior":
        shares = [0 if j == y else counts[j] for j in range(classes)]
        return first_past(shares, below(u, sum(shares)))
    if mode == "within":
        others = sorted(j for group in stage["groups"] if y in group for j in group if j != y)
        return others[below(u, len(others))]
    if mode == "pair":
        return (y + 1) % classes
    if mode == "matrix":
        return first_past(quantise_row(stage["matrix"][y], y), u >> 32)
    return below(u, classes)


def flip_rows(seed: str, number: int, stage: Stage, rows: Rows, classes: int) -> list[Edit]:
    ranking = rank_eligible(seed, number, stage, rows, classes)
    counts = class_counts(rows, classes)
    edits = []
    for rank, key in enumerate(ranking[: wanted_rows(stage, len(rows), len(ranking))]):
        old = rows[key][0]
        assert old is not None
        new = target_class(stage, draw(seed, "flip", number, "target", key), old, counts, classes)
        if new != old:
            edits.append(Edit(key, number, "flip", "label", str(old), str(new), "", rank))
    return edits


def plain_caption(caption: str) -> str:
    return " ".join(words_of(caption)).translate(ASCII_LOWER)


def pair_keys(stage: Stage, ranking: Sequence[str], rows: Rows, pairs: int) -> list[tuple[int, int]]:
    """Pairs of ranks, by the greedy walk."""
    plain = [plain_caption(rows[key][1] or "") for key in ranking]
    if stage["mode"] in ("far", "near"):
        return pair_vectors(stage, ranking, plain, pairs)
    found: list[tuple[int, int]] = []
    queues: dict[int | None, list[int]] = {}
    for rank in range(len(ranking)):
        if len(found) == pairs:
            break
        queue = queues.setdefault(rows[ranking[rank]][0] if stage["mode"] == "within" else None, [])
        if queue and plain[queue[0]] != plain[rank]:
            found.append((queue.pop(0), rank))
        else:
            queue.append(rank)
    return found


def quantise_vector(vector: Sequence[float]) -> list[int]:
    m = max(abs(v) for v in vector)
    t = [math.floor(abs(v) / m * 32767 + 0.5) for v in vector]
    s = sum(n * n for n in t)
    q = [min(127, (math.isqrt(4096 * n * n * len(t) // s) + 1) // 2) for n in t]
    return [-n if v < 0 else n for n, v in zip(q, vector, strict=True)]


def pair_vectors(stage: Stage, ranking: Sequence[str], plain: Sequence[str], pairs: int) -> list[tuple[int, int]]:
    vectors = [quantise_vector(stage["embeddings"][key]) for key in ranking]
    waiting = list(range(len(ranking)))
    found: list[tuple[int, int]] = []
    while waiting and len(found) < pairs:
        first, rest = waiting[0], waiting[1:]
        able = [rank for rank in rest[:64] if plain[rank] != plain[first]] or [rank for rank in rest if plain[rank] != plain[first]][:1]
        if not able:
            break
        dots = {rank: sum(a * b for a, b in zip(vectors[first], vectors[rank], strict=True)) for rank in able}
        best = min(able, key=lambda rank: (dots[rank] if stage["mode"] == "far" else -dots[rank], rank))
        found.append((first, best))
        waiting = [rank for rank in rest if rank != best]
    return found


def swap_rows(seed: str, number: int, stage: Stage, rows: Rows, classes: int) -> list[Edit]:
    ranking = rank_eligible(seed, number, stage, rows, classes)
    edits = []
    for pair in pair_keys(stage, ranking, rows, wanted_rows(stage, len(rows), len(ranking)) // 2):
        for mine, partner in (pair, pair[::-1]):
            key, donor = ranking[mine], ranking[partner]
            edits.append(Edit(key, number, "swap", "caption", str(rows[key][1]), str(rows[donor][1]), donor, mine))
    return edits


def fixed_caption(stage: Stage, label: int | None, classes: int) -> str | None:
    """What a drop of captions or a constant would give a row; None where it has nothing for it."""
    if stage["kind"] == "drop":
        return ""
    if stage["mode"] == "text":
        return str(stage["text"])
    return None if label is None or label >= classes else str(stage["names"][label]).join(stage["text"].split("{}"))


def fix_rows(seed: str, number: int, stage: Stage, rows: Rows, classes: int) -> list[Edit]:
    """Drops and constants."""
    ranking = rank_eligible(seed, number, stage, rows, classes)
    field = "label" if stage["mode"] == "label" else "caption"
    edits = []
    for rank, key in enumerate(ranking[: wanted_rows(stage, len(rows), len(ranking))]):
        new = str(classes) if field == "label" else fixed_caption(stage, rows[key][0], classes)
        edits.append(Edit(key, number, stage["kind"], field, str(rows[key][FIELDS.index(field)]), str(new), "", rank))
    return edits


def count_words(rows: Rows) -> dict[str, int]:
    """V in ascending bytes, and c_w."""
    counts = Counter(word for _, caption in rows.values() if caption is not None for word in words_of(caption))
    return {word: counts[word] for word in sorted(counts, key=str.encode)}


def can_edit(mode: str, words: Sequence[str], vocabulary: Mapping[str, int]) -> bool:
    if mode == "delete":
        return len(words) >= 2
    if mode == "transpose":
        return len(set(words)) >= 2
    return len(words) >= 1 and (mode != "replace" or len(vocabulary) >= 2)


def edit_words(mode: str, words: list[str], draws: Mapping[str, int], vocabulary: Mapping[str, int]) -> list[str]:
    if mode == "mixed":
        able = [name for name in ("delete", "duplicate", "transpose", "replace") if can_edit(name, words, vocabulary)]
        mode = able[below(draws["op"], len(able))]
    if mode == "transpose":
        differ = [i for i in range(len(words) - 1) if words[i] != words[i + 1]]
        i = differ[below(draws["place"], len(differ))]
        return [*words[:i], words[i + 1], words[i], *words[i + 2 :]]
    i = below(draws["place"], len(words))
    if mode == "delete":
        return words[:i] + words[i + 1 :]
    if mode == "duplicate":
        return words[: i + 1] + words[i:]
    shares = [0 if word == words[i] else count for word, count in vocabulary.items()]
    return [*words[:i], list(vocabulary)[first_past(shares, below(draws["word"], sum(shares)))], *words[i + 1 :]]


def word_rows(seed: str, number: int, stage: Stage, rows: Rows, classes: int) -> list[Edit]:
    stage = {**stage, "vocabulary": count_words(rows)}
    ranking = rank_eligible(seed, number, stage, rows, classes)
    edits = []
    for rank, key in enumerate(ranking[: wanted_rows(stage, len(rows), len(ranking))]):
        first = words = words_of(str(rows[key][1]))
        left = [words]
        for j in range(min(64, max(1, half_up(str(Fraction(stage["level"], 10)), len(first))))):
            draws = {name: draw(seed, "words", number, f"{name}.{j}", key) for name in ("op", "place", "word")}
            left.append(edit_words(stage["mode"], left[-1], draws, stage["vocabulary"]))
        new = left[-1] if left[-1] != first else left[-2]
        edits.append(Edit(key, number, "words", "caption", str(rows[key][1]), " ".join(new), "", rank))
    return edits


def rewrite_rows(seed: str, number: int, stage: Stage, rows: Rows, classes: int) -> list[Edit]:
    """A cell that the table lacks is a KeyError: a plan is refused then."""
    ranking = rank_eligible(seed, number, stage, rows, classes)
    edits = []
    for rank, key in enumerate(ranking[: wanted_rows(stage, len(rows), len(ranking))]):
        new = stage["texts"][drawn_cell(Place(seed, number, key), stage)]
        edits.append(Edit(key, number, "rewrite", "caption", str(rows[key][1]), new, "", rank))
    return edits


def apply_edits(rows: Rows, edits: Sequence[Edit]) -> dict[str, tuple[int | None, str | None]]:
    left = dict(rows)
    for edit in edits:
        label, caption = left[edit.key]
        left[edit.key] = (int(edit.new), caption) if edit.field == "label" else (label, edit.new)
    return left


def plan_edits(recipe: Mapping[str, Any], rows: Rows, classes: int | None) -> list[Edit]:
    """All edits in ascending (key bytes, stage)."""
    edits: list[Edit] = []
    for number, stage in enumerate(recipe["chain"]):
        deciders = {"flip": flip_rows, "swap": swap_rows, "words": word_rows, "rewrite": rewrite_rows}
        made = deciders.get(stage["kind"], fix_rows)(recipe["seed"], number, with_texts(stage), rows, classes or 0)
        rows = apply_edits(rows, made)
        edits += made
    return sorted(edits, key=lambda edit: (edit.key.encode(), edit.stage))


def compose(edits: Sequence[Edit]) -> dict[tuple[str, str], tuple[str, str]]:
    """(key, field) to (first old, last new), dropped where they are equal."""
    ends: dict[tuple[str, str], tuple[str, str]] = {}
    for edit in edits:
        first, _ = ends.get((edit.key, edit.field), (edit.old, ""))
        ends[edit.key, edit.field] = (first, edit.new)
    return {place: (old, new) for place, (old, new) in ends.items() if old != new}


# Section 5


def lp(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little") + content


def fingerprint(rows: Rows) -> str:
    digest = hashlib.sha256()
    for key in sorted(rows, key=str.encode):
        label, caption = rows[key]
        digest.update(lp(key.encode()) + bytes([(label is not None) + 2 * (caption is not None)]))
        digest.update(b"" if label is None else label.to_bytes(8, "little", signed=True))
        digest.update(b"" if caption is None else lp(caption.encode()))
    return digest.hexdigest()


def plan_digest(edits: Sequence[Edit]) -> str:
    digest = hashlib.sha256()
    for edit in sorted(edits, key=lambda edit: (edit.key.encode(), edit.stage)):
        digest.update(lp(edit.key.encode()) + bytes([edit.stage, FIELDS.index(edit.field)]) + lp(edit.new.encode()))
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """Written out by hand, so that it shares no encoder with the library but the one for text."""
    if isinstance(value, dict):
        items = (canonical_json(name) + b":" + canonical_json(value[name]) for name in sorted(value))
        return b"{" + b",".join(items) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(canonical_json, value)) + b"]"
    if isinstance(value, bool) or value is None:
        return {True: b"true", False: b"false", None: b"null"}[value]
    return str(value).encode() if isinstance(value, int) else json.dumps(value, ensure_ascii=False).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def canonical_stage(stage: Stage) -> dict[str, Any]:
    """A stage as it stands in an identity."""
    entry = dict(stage)
    if "groups" in entry:
        entry["groups"] = sha256(canonical_json(sorted(sorted(group) for group in entry["groups"])))
    if "matrix" in entry:
        cells = [["0" if i == j else cell for j, cell in enumerate(row)] for i, row in enumerate(entry["matrix"])]
        entry["matrix"] = sha256(canonical_json(cells))
    if "embeddings" in entry:
        vectors = {key: bytes(n % 256 for n in quantise_vector(vector)) for key, vector in entry["embeddings"].items()}
        width = max(map(len, vectors.values()))
        rows = b"".join(lp(key.encode()) + vectors[key] for key in sorted(vectors, key=str.encode))
        entry["embeddings"] = sha256(width.to_bytes(4, "little") + rows)
    if "names" in entry:
        entry["names"] = sha256(canonical_json(entry["names"]))
    if "table" in entry:
        entry["table"] = sha256(canonical_json(sorted(entry["table"], key=lambda row: (row[0].encode(), row[1]))))
    if entry["where"] is not None:
        entry["where"] = dict(entry["where"])
        if "classes" in entry["where"]:
            entry["where"]["classes"] = sorted(set(entry["where"]["classes"]))
        if "keys_file" in entry["where"]:
            keys = sorted(set(entry["where"]["keys_file"]), key=str.encode)
            entry["where"]["keys_file"] = sha256("".join(f"{key}\n" for key in keys).encode())
    return entry


def identity(
    recipe: Mapping[str, Any], rows: Rows, classes: int | None, *, split: str = "train", key_rule: str = "sample", null_label: bool = False
) -> dict[str, Any]:
    edits = plan_edits(recipe, rows, classes)
    source = {"rows": len(rows), "split": split, "key_rule": key_rule, "fingerprint": fingerprint(rows), "classes": classes}
    return {
        "spec": 1,
        "source": source | ({"null_label": True} if null_label else {}),
        "recipe": {"seed": recipe["seed"], "chain": [canonical_stage(stage) for stage in recipe["chain"]]},
        "edits": len(edits),
        "plan_digest": plan_digest(edits),
    }


def variant_id(identity: Mapping[str, Any]) -> str:
    return sha256(canonical_json(dict(identity)))[:16]
