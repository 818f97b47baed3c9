"""A metadata.csv with a byte order mark, line ends of Windows, quotes and a line end in a cell."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, images, pack, row


def build(folder: Path) -> ReadRight:
    images(folder / "src", "a.jpg", "b.jpg")
    content = '\ufefffile_name,text\r\na.jpg,"one, ""quoted"""\r\nb.jpg,"two\nlines"\r\n'
    pack(folder / "src" / "metadata.csv", content.encode(), end=b"")
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption='one, "quoted"'), row("b", caption="two\nlines")])
