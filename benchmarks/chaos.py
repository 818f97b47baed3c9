"""The slow proofs: runs that are killed, interrupted or out of room, and commands repeated until a rare failure would show.

    .venv/bin/python benchmarks/chaos.py [--record]

Runs the tests marked `slow` (some 20 minutes on 2 cores); `--record` writes what they say to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from results import publish

ROOT = Path(__file__).parents[1]


def run_proofs(report: Path) -> int:
    """Run the slow tests; their report is JUnit XML."""
    command = [sys.executable, "-m", "pytest", "-m", "slow", f"--junitxml={report}"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def result_lines(report: Path) -> list[str]:
    """One line a proof, in the order they ran."""
    rows = []
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        states = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        rows.append(f"| {case.get('name')} | {states[0] if states else 'passed'} | {float(case.get('time', '0')):.0f} s |")
    return ["| proof | result | time |", "|---|---|---|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the slow proofs.")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        status = run_proofs(report)
        body = result_lines(report)
    publish("Slow proofs", "`make test-chaos RECORD=1`", body, record=arguments.record)
    sys.exit(status)


if __name__ == "__main__":
    main()
