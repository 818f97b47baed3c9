"""What a language model has said: the journal of its replies, the text in a reply, and the table of texts."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import corruptkit as ck

_COLUMNS = ("key", "level", "text", "caption", "model", "prompt", "reply", "date")
SCHEMA = pa.schema([(name, pa.int64() if name == "level" else pa.large_string()) for name in _COLUMNS])
SAME = "the caption itself"
_BROKEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_QUOTES = ('""', "''", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb")
Cell = tuple[str, int]  # a key and a level
Record = dict[str, Any]


class Journal:
    """Every reply that was given, a line of JSON each, on the disk before anything follows; `texts` are those that could be used."""

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.texts = path, dict[Cell, Record]()
        self.refused: defaultdict[tuple[Cell, str, str], list[Record]] = defaultdict(list)  # of a cell, by model and prompt
        self.file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ck.ConflictError(ck.Problem(str(path), "another run is writing here", do="wait for it or name another --table")) from None
        self.file.seek(0)
        content = self.file.read()
        self.file.truncate(content.rfind(b"\n") + 1)  # a line that was cut short was never acted upon
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            self._read_line(number, line, source)
        if b"\n" not in content:
            self._write_line({"source": source})

    def _read_line(self, number: int, line: bytes, source: str) -> None:
        try:
            record = json.loads(line)
            found = record["source"] if number == 1 else source
            if number > 1:
                self._take(record)
        except (ValueError, LookupError, TypeError):
            raise ck.IntegrityError(ck.Problem(str(self.path), f"line {number} is no record", do="mend the line or remove it")) from None
        if found != source:
            expected = f"{source[:16]}..., the source that is named"
            raise ck.ConflictError(ck.Problem(str(self.path), f"texts for the source {found:.16}...", expected, "name another --table"))

    def add(self, record: Record) -> None:
        self._write_line(record)
        self._take(record)

    def _take(self, record: Record) -> None:
        cell = (record["key"], record["level"])
        if record["text"] is None:
            self.refused[cell, record["model"], record["prompt"]].append(record)
        else:
            self.texts[cell] = record

    def _write_line(self, record: Record) -> None:
        self.file.write(json.dumps(record).encode() + b"\n")
        os.fsync(self.file.fileno())

    def write_table(self, path: Path) -> None:
        """The texts in ascending (key bytes, level), each with its record."""
        records = [self.texts[cell] for cell in sorted(self.texts, key=lambda cell: (cell[0].encode(), cell[1]))]
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            pq.write_table(pa.table([[record[name] for record in records] for name in SCHEMA.names], SCHEMA), partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def clean_reply(reply: str, caption: str) -> tuple[str | None, str]:
    """The text of a reply, or None and what is wrong with it.

    White space around it goes; then a code fence; then a JSON object of one text, or a pair of quotation marks with none of them
    inside. What is left is refused if it is empty, of several lines, longer than 200 characters and than four captions, or, but for
    white space, the caption.
    """
    text = unwrap_text(reply.strip(), caption).strip()
    faults = {
        "empty": not text,
        "of several lines or with control characters": _BROKEN.search(text) is not None,
        "too long": len(text) > max(200, 4 * len(caption)),
        SAME: text.split() == caption.split(),
    }
    fault = next((name for name, found in faults.items() if found), "")
    return (None if fault else text), fault


def unwrap_text(text: str, caption: str) -> str:
    fenced = re.fullmatch(r"```\w*\n(.*?)\n?```", text, re.DOTALL)
    text = fenced[1].strip() if fenced else text
    if text.startswith("{"):
        try:
            values = list(json.loads(text).values())
        except (ValueError, AttributeError, RecursionError):
            return text
        return values[0] if len(values) == 1 and isinstance(values[0], str) else text
    for first, last in _QUOTES:
        inside = text[1:-1]
        if len(text) > 1 and text[0] == first and text[-1] == last and not {first, last} & set(inside) and caption.strip()[:1] != first:
            return inside
    return text
