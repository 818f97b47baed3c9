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
import time

from results import record_section, write_section

TITLE = "Time to help"
AIM_SECONDS = 0.3


def find_commands() -> dict[str, list[str]]:
    """What is compared: the installed command, and the interpreter that it runs on."""
    script = shutil.which("corruptkit", path=sysconfig.get_path("scripts"))
    if script is None:
        sys.exit("error: corruptkit is not installed beside this Python; run `make lint` first")
    return {"help": [script, "--help"], "bare": [sys.executable, "-c", "pass"]}


def time_command(command: list[str]) -> float:
    """Seconds from start to exit."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def measure_commands(runs: int) -> dict[str, list[float]]:
    """Seconds of each run, the first of each (cold caches) left out."""
    commands = find_commands()
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, command in commands.items():
            seconds[name].append(time_command(command))
    return {name: values[1:] for name, values in seconds.items()}


def result_section(seconds: dict[str, list[float]]) -> str:
    """The numbers as a section of RESULTS.md."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    deciles = {name: statistics.quantiles(values, n=10) for name, values in seconds.items()}
    rows = []
    for name, label in (("bare", "python -c pass"), ("help", "corruptkit --help")):
        spread = f"{deciles[name][0]:.3f} - {deciles[name][-1]:.3f} s"
        rows.append(f"| `{label}` | {medians[name]:.3f} s | {spread} | {medians[name] / medians['bare']:.2f} |")
    table = ["| command | median | 10th - 90th percentile | ratio |", "|---|---|---|---|", *rows]
    return write_section(TITLE, f"`python benchmarks/help_time.py --runs {len(seconds['help'])}`; aim: under {AIM_SECONDS} s.", table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time corruptkit --help against a bare Python.")
    parser.add_argument("--runs", type=int, default=40, help="timed runs of each command (default 40)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    section = result_section(measure_commands(max(arguments.runs, 2)))
    if arguments.record:
        record_section(section)
    print(section)


if __name__ == "__main__":
    main()
