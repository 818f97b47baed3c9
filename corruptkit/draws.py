"""Every random decision: counter-free draws that depend on (seed, kind, stage, purpose, key) alone. SPEC.md section 2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

U64 = npt.NDArray[np.uint64]

# Rows per pass: the temporaries of a pass stay in the second-level cache.
_BLOCK = 1 << 15


def hash_text(text: str) -> int:
    """h(text): XXH3, 64 bits, seed 0, of the UTF-8 bytes."""
    return xxh3_64_intdigest(text.encode())


def hash_keys(keys: Iterable[bytes]) -> U64:
    """h(key) of every key, given as UTF-8 bytes."""
    return np.fromiter(map(xxh3_64_intdigest, keys), np.uint64)


def mix64(x: U64) -> U64:
    """The finaliser of SplitMix64, element by element, modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def below(u: U64, limit: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Map draws to integers in [0, limit), 0 < limit < 2^32, by the upper 32 bits."""
    return (((u >> np.uint64(32)) * np.asarray(limit, np.uint64)) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class Draws:
    """The draws of one stage; `name` is the kind at stage 0 and kind@s at stage s."""

    seed: str
    name: str

    def of(self, purpose: str, hashes: U64) -> U64:
        """One 64-bit draw a row for a purpose, from the hashes of the keys."""
        salt = np.uint64(hash_text(f"corruptkit:1:{self.seed}:{self.name}:{purpose}"))
        out = np.empty(len(hashes), np.uint64)
        for block in _blocks(len(hashes)):
            out[block] = mix64(hashes[block] ^ salt)
        return out


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


def rank_rows(draws: U64, count: int) -> npt.NDArray[np.int64]:
    """The first `count` rows by ascending (draw, row number); rows stand in ascending key bytes, so ties go by key."""
    if count < len(draws):
        limit = np.partition(draws, count - 1)[count - 1] if count else np.uint64(0)
        rows = np.flatnonzero(draws <= limit)
    else:
        rows = np.arange(len(draws))
    return rows[np.argsort(draws[rows], kind="stable")][:count]
