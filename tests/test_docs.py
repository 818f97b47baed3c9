"""Pages made from the code are what the code makes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import get_args

from corruptkit.corruptions import KINDS

DOCS = Path(__file__).parents[1] / "docs"


def test_command_page_is_fresh() -> None:
    made = runpy.run_path(str(DOCS / "make_cli.py"))["write_page"]()
    assert (DOCS / "cli.md").read_text("utf-8") == made, "run python docs/make_cli.py"


def test_page_of_kinds_is_fresh(openmoji: Path) -> None:
    script = runpy.run_path(str(DOCS / "make_kinds.py"))
    assert (DOCS / "kinds.md").read_text("utf-8") == script["write_page"](openmoji), "run python docs/make_kinds.py data/openmoji"
    shown = {(stage["kind"], stage.get("mode", KINDS[stage["kind"]].model_fields["mode"].default)) for stage, _ in script["_STAGES"]}
    assert shown == {(kind, mode) for kind, model in KINDS.items() for mode in get_args(model.model_fields["mode"].annotation)}
