"""A folder of a class with a link to the folder of all classes."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images


def build(folder: Path) -> Refused:
    images(folder / "src", "a/1.jpg", "b/2.jpg")
    (folder / "src" / "a" / "loop").symlink_to("..")
    return Refused("make --source src --flip 1", "src/a/loop", "which it lies in", "remove the link")
