"""How long `corruptkit --help` takes beside the physical limit, a Python that does nothing.

    .venv/bin/python benchmarks/help_time.py [--runs N] [--record]

Both run in turn, so that a busy machine slows both; `--record` writes the numbers to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import sysconfig

from results import publish
from rounds import Task, describe_times, state_aim, take_turns

_AIM = 0.3
BARE, HELP = "`python -c pass`", "`corruptkit --help`"


def find_command() -> str:
    """The command that is installed beside this Python."""
    script = shutil.which("corruptkit", path=sysconfig.get_path("scripts"))
    if script is None:
        sys.exit("error: corruptkit is not installed beside this Python; run `make lint` first")
    return script


def run_command(*words: str) -> None:
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)


def result_lines(runs: int) -> list[str]:
    script = find_command()
    tasks: dict[str, Task] = {BARE: lambda: run_command(sys.executable, "-c", "pass"), HELP: lambda: run_command(script, "--help")}
    seconds = take_turns(tasks, runs)
    return [*describe_times(seconds, BARE), "", state_aim("Seconds to help, the median", statistics.median(seconds[HELP]), _AIM)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time corruptkit --help against a bare Python.")
    parser.add_argument("--runs", type=int, default=40, help="timed runs of each command (default 40)")
    parser.add_argument("--record", action="store_true", help="write the numbers to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    runs = max(arguments.runs, 2)
    publish("Time to help", f"`python benchmarks/help_time.py --runs {runs}`", result_lines(runs), record=arguments.record)


if __name__ == "__main__":
    main()
