"""What tests of the command line share: what a command said, and a catalog of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CATALOG = """
title = "{title}"
home = "https://example.org/"
license = "not ours to give"
license_url = "https://example.org/license"
attribution = "their authors"
terms = "sign the form"
key_rule = "{rule}"
fields = ["label", "caption"]
classes = 20
get = "huggingface-cli download example/{name} --local-dir data/{name}"
"""
GRID = """
source = "{name}"
[[ladder]]
kind = "flip"
mode = "pair"
ratios = ["0.25"]
seeds = [7]
"""

SWAP = ("--source", "src", "--swap", "0.5")
FLIP = ("--source", "src", "--flip", "0.5")


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """The one JSON object on standard output, checked for what every command promises."""
        assert self.out.count("\n") == 1
        data: dict[str, Any] = json.loads(self.out)
        assert list(data)[:3] == ["command", "variants", "problems"]
        assert all(set(variant) == {"variant_id", "path", "format", "counts"} for variant in data["variants"])
        assert all(set(problem) == {"file", "key", "found", "expected", "do"} for problem in data["problems"])
        return data


Run = Callable[..., Said]


def write_catalog(folder: Path, name: str = "secrets", rule: str = "sample") -> Path:
    """A private catalog of one data set that nobody may simply fetch, and one variant of it."""
    for kind, text in (("sources", CATALOG), ("variants", GRID)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{name}.toml").write_text(text.format(title="Secrets", name=name, rule=rule), encoding="utf-8")
    return folder


def new_folders(here: Path) -> list[str]:
    return sorted(path.name for path in here.iterdir() if path.name not in ("src", "data", "catalog"))
