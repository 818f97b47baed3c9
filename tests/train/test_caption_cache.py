"""The cache of captions: an entry is encoded once, whoever asks; a broken part is made anew; runs beside each other do no harm."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import corruptkit as ck
from corruptkit_train import caption_cache
from corruptkit_train.caption_cache import CacheWarning, CaptionTable, embed_captions
from corruptkit_train.encoders import Encoder, TextEncoder, load_encoder

CAPTIONS = [f"a photo of thing {i % 40}" for i in range(100)]


class Counted:
    """An encoder that keeps what it was asked for."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.asked = encoder, list[str]()
        self.digest, self.shape = encoder.digest, encoder.shape

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        self.asked += captions
        return self.encoder.encode(captions)


@pytest.fixture(params=["pooled", "tokens"])
def counted(request: pytest.FixtureRequest, tiny: Path) -> Counted:
    return Counted(load_encoder(TextEncoder(name=str(tiny), output=request.param, max_tokens=16)))


def check_table(table: CaptionTable, encoder: Counted, captions: Sequence[str]) -> None:
    """Each row has the states of its own caption, as the encoder gives them."""
    states, mask = encoder.encoder.encode(captions)
    assert torch.equal(table.states[table.places], states.to(table.states.dtype))
    empty, no_words = encoder.encoder.encode([""])
    assert torch.equal(table.states[table.null], empty[0].to(table.states.dtype))
    assert (table.mask is None) == (mask is None)
    if table.mask is not None and mask is not None and no_words is not None:
        assert torch.equal(table.mask[table.places], mask)
        assert torch.equal(table.mask[table.null], no_words[0])


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("part-*"))


def test_a_caption_is_encoded_once(counted: Counted, tmp_path: Path) -> None:
    table = embed_captions(counted, CAPTIONS, tmp_path)
    assert sorted(counted.asked) == sorted({*CAPTIONS, ""})
    assert (table.states.dtype, len(table.states), table.places.dtype) == (torch.float16, 41, np.int64)
    check_table(table, counted, CAPTIONS)
    counted.asked.clear()
    again = embed_captions(counted, CAPTIONS, tmp_path)
    assert counted.asked == []
    assert torch.equal(again.states, table.states)


@pytest.mark.parametrize("kind", [list, pa.array, lambda rows: pa.chunked_array([rows[:7], rows[7:]])])
def test_captions_come_as_lists_and_as_columns(tiny: Path, tmp_path: Path, kind: Any) -> None:
    encoder = Counted(load_encoder(TextEncoder(name=str(tiny), max_tokens=16)))
    rows = ["b", "a", "", "b", "\u00e9", "e\u0301", " b", "b", "B"]
    table = embed_captions(encoder, kind(rows), tmp_path)
    assert table.places.tolist() == [0, 1, 2, 0, 3, 4, 5, 0, 6]
    assert (table.null, len(table.states)) == (2, 7)  # captions are their exact text
    check_table(table, encoder, rows)


def test_new_captions_become_a_new_part(counted: Counted, tmp_path: Path) -> None:
    embed_captions(counted, CAPTIONS[:10], tmp_path)
    (first,) = files_of(tmp_path)
    content = first.read_bytes()
    counted.asked.clear()
    table = embed_captions(counted, CAPTIONS, tmp_path)
    assert sorted(counted.asked) == sorted({*CAPTIONS} - {*CAPTIONS[:10]})
    assert len(files_of(tmp_path)) == 2
    assert first.read_bytes() == content
    check_table(table, counted, CAPTIONS)


def test_many_parts_are_one_table(counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_cache, "_PART_ROWS", 7)
    monkeypatch.setattr(caption_cache, "_PIECE", 3)
    steps = list[tuple[int, int]]()
    table = embed_captions(counted, CAPTIONS, tmp_path, watch=lambda done, total: steps.append((done, total)))
    assert len(files_of(tmp_path)) == 6
    assert steps[-1] == (41, 41)
    assert len(steps) > 6
    check_table(table, counted, CAPTIONS)
    check_table(embed_captions(counted, CAPTIONS[::-1], tmp_path), counted, CAPTIONS[::-1])


def test_large_states_lie_in_a_file_without_a_name(counted: Counted, tmp_path: Path) -> None:
    table = embed_captions(counted, CAPTIONS, tmp_path, large=0)
    held = Path("/proc/self/maps").read_text()
    assert f"{tmp_path}" in "\n".join(line for line in held.splitlines() if line.endswith("(deleted)"))
    assert [file.suffix for file in files_of(tmp_path)] == [".safetensors"]
    check_table(table, counted, CAPTIONS)


def test_encoders_and_types_have_folders_of_their_own(tiny: Path, tmp_path: Path) -> None:
    first, second = (Counted(load_encoder(TextEncoder(name=str(tiny), max_tokens=tokens))) for tokens in (16, 4))
    for encoder in (first, second):
        check_table(embed_captions(encoder, CAPTIONS, tmp_path), encoder, CAPTIONS)
    exact = embed_captions(first, CAPTIONS, tmp_path, dtype="float32")
    assert exact.states.dtype == torch.float32
    check_table(exact, first, CAPTIONS)
    assert len({file.parent for file in files_of(tmp_path)}) == 3


def cut_short(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-10])


def flip_bit(part: Path) -> None:
    content = bytearray(part.read_bytes())
    content[-5] ^= 1
    part.write_bytes(content)


def empty_out(part: Path) -> None:
    part.write_bytes(b"")


def rename_encoder(part: Path) -> None:
    tensors = load_file(part)
    part.unlink()
    save_file(tensors, part, {"version": "captions 1", "encoder": "another", "sha256": caption_cache._tensors_sha256(tensors)})


def lose_rows(part: Path) -> None:
    tensors = load_file(part)
    encoder = part.parent.name.partition("-")[0]
    tensors["states"] = tensors["states"][1:].clone()
    part.unlink()
    save_file(tensors, part, {"version": "captions 1", "encoder": encoder, "sha256": caption_cache._tensors_sha256(tensors)})


@pytest.mark.parametrize("damage", [cut_short, flip_bit, empty_out, rename_encoder, lose_rows])
def test_a_broken_part_is_made_anew_with_one_line(counted: Counted, tmp_path: Path, damage: Any) -> None:
    embed_captions(counted, CAPTIONS[:10], tmp_path)
    (broken,) = files_of(tmp_path)
    embed_captions(counted, CAPTIONS, tmp_path)
    damage(broken)
    counted.asked.clear()
    with pytest.warns(CacheWarning) as found:
        table = embed_captions(counted, CAPTIONS, tmp_path)
    (words,) = [str(warning.message) for warning in found]
    assert words == f"{broken}: not what was written; removed, its captions are encoded anew"
    assert sorted(counted.asked) == sorted({*CAPTIONS[:10], ""})
    check_table(table, counted, CAPTIONS)
    embed_captions(counted, CAPTIONS, tmp_path)  # and there is nothing left to warn of


def test_what_a_killed_run_left_goes(counted: Counted, tmp_path: Path) -> None:
    embed_captions(counted, CAPTIONS[:10], tmp_path)
    leftover = files_of(tmp_path)[0].with_suffix(".123.tmp")
    leftover.write_bytes(b"half a part")
    embed_captions(counted, CAPTIONS, tmp_path)
    assert not leftover.exists()


def test_what_was_encoded_before_a_stop_stays(counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_cache, "_PART_ROWS", 10)

    def stop(done: int, _: int) -> None:
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_captions(counted, CAPTIONS, tmp_path, watch=stop)
    counted.asked.clear()
    check_table(embed_captions(counted, CAPTIONS, tmp_path), counted, CAPTIONS)
    assert len(counted.asked) == 11


SCRIPT = """
import sys
from pathlib import Path
from corruptkit_train.caption_cache import embed_captions
from corruptkit_train.encoders import TextEncoder, load_encoder
encoder = load_encoder(TextEncoder(name=sys.argv[1], max_tokens=16))
print("ready", flush=True)
sys.stdin.readline()
embed_captions(encoder, [f"a photo of thing {i}" for i in range(int(sys.argv[3]))], Path(sys.argv[2]))
"""


def test_two_processes_at_once_encode_once(tiny: Path, tmp_path: Path) -> None:
    # The package that is tested, wherever another is installed.
    home = os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(part.__file__).parents[1]) for part in (caption_cache, ck))}
    words = [[sys.executable, "-c", SCRIPT, str(tiny), str(tmp_path), count] for count in ("400", "500")]
    with ExitStack() as stack:
        how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": home}
        runs = [stack.enter_context(subprocess.Popen(line, **how)) for line in words]
        for run in runs:
            assert run.stdout.readline() == "ready\n"
        for run in runs:
            run.stdin.write("\n")
            run.stdin.flush()
        assert [run.wait() for run in runs] == [0, 0]
    encoder = Counted(load_encoder(TextEncoder(name=str(tiny), max_tokens=16)))
    captions = [f"a photo of thing {i}" for i in range(500)]
    check_table(embed_captions(encoder, captions, tmp_path), encoder, captions)
    assert encoder.asked == []
    assert sum(len(load_file(part)["states"]) for part in files_of(tmp_path)) == 501  # no caption twice


def test_who_comes_second_waits_and_finds_what_is_made(counted: Counted, tmp_path: Path) -> None:
    embed_captions(counted, CAPTIONS[:1], tmp_path)
    home = files_of(tmp_path)[0].parent
    counted.asked.clear()
    descriptor = os.open(home, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    waiting = threading.Thread(target=embed_captions, args=(counted, CAPTIONS, tmp_path))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    assert counted.asked == []
    embed_captions(counted, CAPTIONS[:1], tmp_path)  # what is there already is read without waiting
    os.close(descriptor)
    waiting.join()
    check_table(embed_captions(counted, CAPTIONS, tmp_path), counted, CAPTIONS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_whole_cache_may_be_read_only(counted: Counted, tmp_path: Path) -> None:
    embed_captions(counted, CAPTIONS, tmp_path)
    home = files_of(tmp_path)[0].parent
    home.chmod(0o555)
    try:
        check_table(embed_captions(counted, CAPTIONS, tmp_path), counted, CAPTIONS)
        with pytest.raises(ck.DatasetError, match="captions cannot be kept: Permission denied"):
            embed_captions(counted, ["dog"], tmp_path)
    finally:
        home.chmod(0o755)


def test_a_folder_that_is_a_file_is_told_in_one_line(counted: Counted, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ck.DatasetError) as error:
        embed_captions(counted, CAPTIONS, tmp_path / "cache")
    assert str(error.value).startswith(f"{tmp_path}/cache/{counted.digest}-float16: captions cannot be kept: Not a directory, expected ")


def test_a_disk_without_room_leaves_no_half_part(counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed_captions(counted, CAPTIONS[:1], tmp_path)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caption_cache.os, "fsync", fail)
    with pytest.raises(ck.DatasetError, match="captions cannot be kept: No space left on device"):
        embed_captions(counted, CAPTIONS, tmp_path)
    assert len(files_of(tmp_path)) == 1


def test_states_that_float16_cannot_hold_are_refused(tiny: Path, tmp_path: Path) -> None:
    class Loud(Counted):
        def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
            states, mask = super().encode(captions)
            return states * 1e6, mask

    loud = Loud(load_encoder(TextEncoder(name=str(tiny), max_tokens=16)))
    with pytest.raises(ck.IntegrityError, match="states that are no numbers in float16, expected finite states; store them as float32"):
        embed_captions(loud, CAPTIONS, tmp_path)
    assert files_of(tmp_path) == []
    assert embed_captions(loud, CAPTIONS, tmp_path, dtype="float32").states.abs().max() > 65504


def test_a_row_without_a_caption_is_no_caption(counted: Counted, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found 1 rows without a caption"):
        embed_captions(counted, pa.array(["a", None]), tmp_path)


def test_no_rows_have_the_empty_caption_alone(counted: Counted, tmp_path: Path) -> None:
    table = embed_captions(counted, [], tmp_path)
    assert (len(table.states), table.places.shape, table.null) == (1, (0,), 0)
