"""Images that are links to files beside the folder, as caches of the Hub hold them."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, images, pack, row


def build(folder: Path) -> ReadRight:
    images(folder / "blobs", "0a", "0b")
    (folder / "src").mkdir()
    for name, blob in (("a.jpg", "0a"), ("b.jpg", "0b")):
        (folder / "src" / name).symlink_to(f"../blobs/{blob}")
    pack(folder / "blobs" / "0c", b"file_name,text\na.jpg,one\nb.jpg,two\n", end=b"")
    (folder / "src" / "metadata.csv").symlink_to("../blobs/0c")
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one"), row("b", caption="two")])
