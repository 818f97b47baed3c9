"""What loaded networks of others have in common: the digest of their weights, sums in one order, and the Hub left alone when told so."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def weights_sha256(model: Any, unset: frozenset[str] = frozenset()) -> str:
    """Of every tensor's name, shape and float32 bytes: one digest however many files they came from; `unset` ones hold chance."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in unset:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums of several threads may be added in another order on another machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stays_offline() -> bool:
    """Whether the Hub's own variable says that only what is here may be read."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
