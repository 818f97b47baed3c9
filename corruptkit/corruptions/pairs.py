"""Who exchanges with whom: the normative walks over a ranking. SPEC.md section 4."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from corruptkit.corruptions.rows import Ints

_LOOK = 64  # the rows among which one looks for a partner


def pair_ranks(codes: Iterable[int], queues: Iterable[int], wanted: int) -> Ints:
    """Pairs of ranks, (wanted or fewer, 2), of one queue each, whose captions (by their codes) differ.

    Whoever waits in a queue has the same caption, since a row that differs from the first leaves with it at once.
    """
    pairs: list[tuple[int, int]] = []
    waiting: defaultdict[int, deque[int]] = defaultdict(deque)
    held: dict[int, int] = {}
    for rank, (code, queue) in enumerate(zip(codes, queues, strict=False)):
        if len(pairs) == wanted:
            break
        line = waiting[queue]
        if line and code != held[queue]:
            pairs.append((line.popleft(), rank))
        else:
            line.append(rank)
            held[queue] = code
    return np.array(pairs, np.int64).reshape(-1, 2)


def pair_directions(codes: Sequence[int], vectors: npt.NDArray[np.int8], wanted: int, *, near: bool, whole: bool) -> Ints:
    """Pairs of ranks, (wanted or fewer, 2): the first row that waits takes the farthest or nearest of the next 64 that differ.

    `vectors` holds a row for each rank. Where the ranks are not the `whole` ranking, the walk ends before it would need more of them.
    """
    pairs: list[tuple[int, int]] = []
    window: list[int] = []  # the first that waits, and those it looks at
    gone: set[int] = set()  # ranks past the window that have left
    ahead, held, alike = 0, -1, 0  # ranks in [ahead, alike) that wait have the caption `held`
    while len(pairs) < wanted:
        while len(window) <= _LOOK and ahead < len(codes):
            if ahead not in gone:
                window.append(ahead)
            ahead += 1
        if not window or (len(window) <= _LOOK and not whole):
            break
        first = window.pop(0)
        others = [rank for rank in window if codes[rank] != codes[first]]
        if others:
            products = vectors[others].astype(np.int32) @ vectors[first].astype(np.int32)
            taken = others[int(products.argmax() if near else products.argmin())]  # the first of equals, which has the lower rank
            window.remove(taken)
        else:
            start = max(ahead, alike) if held == codes[first] else ahead
            taken = next((rank for rank in range(start, len(codes)) if codes[rank] != codes[first] and rank not in gone), len(codes))
            held, alike = codes[first], taken
            if taken == len(codes):
                break
            gone.add(taken)
        pairs.append((first, taken))
    return np.array(pairs, np.int64).reshape(-1, 2)
