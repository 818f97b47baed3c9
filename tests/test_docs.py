"""Pages made from the code are what the code makes."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_command_page_is_fresh() -> None:
    made = runpy.run_path(str(DOCS / "make_cli.py"))["write_page"]()
    assert (DOCS / "cli.md").read_text("utf-8") == made, "run python docs/make_cli.py"
