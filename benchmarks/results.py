"""Where results are written: benchmarks/RESULTS.md, a section each, with date, machine, commit and command."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def publish(title: str, command: str, body: list[str], *, record: bool) -> None:
    """Print a section that says when, where, of which commit and by which command its numbers are; `record` writes it to RESULTS.md."""
    stated = f"{datetime.now(UTC).date()} · {describe_machine()} · commit {describe_commit()}"
    section = "\n".join([f"## {title}", "", stated, command, "", *body, ""])
    if record:
        _record(section)
    print(section)


def describe_machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text("utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores ({model}), {platform.system()}, Python {platform.python_version()}"


def describe_commit() -> str:
    """The commit, "-dirty" where files differ from it; RESULTS.md may, since one run records section after section."""
    commit = _ask_git("describe", "--always", "--abbrev=12")
    changed = _ask_git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":(exclude,top)benchmarks/{RESULTS.name}")
    return f"{commit or 'not committed'}{'-dirty' if changed else ''}"


def _ask_git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, cwd=RESULTS.parent, check=False).stdout.strip()  # noqa: S607


def _record(section: str) -> None:
    """Put the section in the place of the one with its title, or at the end."""
    title = section.partition("\n")[0]
    text = RESULTS.read_text("utf-8")
    before, found, after = text.partition(f"{title}\n")
    rest = after[after.index("\n## ") + 1 :] if found and "\n## " in after else ""
    RESULTS.write_text(f"{before.rstrip()}\n\n{section}" + (f"\n{rest}" if rest else ""), "utf-8")
