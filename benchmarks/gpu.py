"""Images a second and the share of a GPU's peak (MFU) that our training loop reaches, beside a plain eager loop.

Ours is `train_model` itself, timed by its own log: bf16, compiled blocks, draws, clipping, moving average, logging; latents of random
numbers are held on the host, as a cache would be. The plain loop is of the kind that public trainers write: eager, bf16 autocast,
`torch.randn`, AdamW without options, an average in Python, and the loss read in every step. Each model has a process and a
time limit of its own; what is measured is on the disk at once, so that a failure or an end loses nothing before it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_DIT = {"kind": "dit", "patch": 2}
# What is trained, (C, H, W), images of the first try, seconds of its process, aim of MFU.
_MODELS: dict[str, tuple[dict[str, Any], tuple[int, int, int], int, int, float | None]] = {
    "DiT-XL/2": ({"kind": "dit", "preset": "DiT-XL/2"}, (4, 32, 32), 192, 125, 0.40),
    "DiT-B/2": ({"kind": "dit", "preset": "DiT-B/2"}, (4, 32, 32), 512, 75, None),
    "DiT-S/2": ({"kind": "dit", "preset": "DiT-S/2"}, (4, 32, 32), 1024, 75, None),
    "LDM-4": ({"kind": "unet", "preset": "LDM-4"}, (3, 64, 64), 128, 175, 0.35),
}
_TINY: dict[str, Any] = {
    "DiT-XL/2": _DIT | {"depth": 2, "width": 64, "heads": 4},
    "DiT-B/2": _DIT | {"depth": 2, "width": 64, "heads": 2},
    "DiT-S/2": _DIT | {"depth": 2, "width": 32, "heads": 2},
    "LDM-4": {"kind": "unet", "channels": [32], "attention": [True], "layers": 1, "heads": 1},
}
_CLASSES, _ROWS, _PLAIN_SECONDS, _REPORT, _LINES = 1000, 2048, 6.0, 4, 6
_CHECKED = range(5, 7)  # steps in which whatever waits for the GPU is counted: between two reports


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure training on this machine's GPU.")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of results (default gpu-results)")
    parser.add_argument("--only", choices=_MODELS, action="append", help="one model; can be given often (default: all)")
    parser.add_argument("--limit", type=float, default=470, help="seconds for all models together (default 470)")
    parser.add_argument("--smoke", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--model", choices=_MODELS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model:
        measure_model(arguments.model, arguments.out, smoke=arguments.smoke)
    else:
        measure_all(arguments.only or list(_MODELS), arguments.out, arguments.limit, smoke=arguments.smoke)


# --- the parent: needs no torch --------------------------------------------------------------------------------------


def measure_all(names: list[str], out: Path, limit: float, *, smoke: bool) -> None:
    """Each model in a process; after each of them, the whole of the results is written anew."""
    out.mkdir(parents=True, exist_ok=True)
    began, found = time.monotonic(), {}
    for number, name in enumerate(names):
        part = out / f"{name.replace('/', '-')}.json"
        part.unlink(missing_ok=True)
        # A model may use what those before it left over, and leaves to those after it what they are owed.
        owed = sum(_MODELS[other][3] for other in names[number + 1 :])
        seconds = max(20.0, min(limit - (time.monotonic() - began) - owed, 2.0 * _MODELS[name][3]))
        print(f"{name}: {seconds:.0f} s at most", flush=True)
        started = time.monotonic()
        failure = run_apart([name, str(out), *(["--smoke"] if smoke else [])], part.with_suffix(".log"), seconds)
        found[name] = (json.loads(part.read_text()) if part.exists() else {}) | {"seconds": round(time.monotonic() - started, 1)}
        found[name] |= read_lines(out, name) if failure else {}
        if failure:
            found[name]["failure"] = failure
        write_results(out, found)
    print((out / "results.md").read_text())
    print(f"written to {out}/results.json and results.md in {time.monotonic() - began:.0f} s")
    if not any("ours" in result for result in found.values()):
        sys.exit(1)


def run_apart(words: list[str], log: Path, seconds: float) -> str:
    """Measure one model in a process of its own, which ends with all that it started; gives what went wrong, or nothing."""
    name, out, *rest = words
    line = [sys.executable, __file__, "--model", name, "--out", out, *rest]
    with log.open("wb") as said:
        process = subprocess.Popen(line, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"not done within {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # a compiler's workers, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing said"]
    return "" if status == 0 else f"exit status {status}: {tail[0][:200]}"


def read_lines(out: Path, name: str) -> dict[str, Any]:
    """What a loop that did not end had logged."""
    log = out / f"{name.replace('/', '-')}-run" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")][1:] if log.exists() else []
    return {"ours": describe_lines(lines) | {"unfinished": True}} if len(lines) > 1 else {}  # the second holds steps that were watched


def describe_lines(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of a log's lines."""
    names = ("images_per_s", "mfu", "data_wait")
    return {name: statistics.median(line[name] for line in lines) for name in names} | {"lines": len(lines), "peak": lines[0]["peak"]}


def write_results(out: Path, found: dict[str, Any]) -> None:
    """results.json and results.md, whole at any time."""
    machine = next((result["machine"] for result in found.values() if "machine" in result), {"device": "unknown"})
    body = [
        f"# Training on {machine['device']}",
        "",
        ", ".join(f"{name} {value}" for name, value in machine.items() if name != "device"),
        "",
        "| model | batch | ours, images/s | ours, MFU | aim | plain, images/s | plain, MFU | ours / plain | waits for the GPU a step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        body.append(result_line(name, result, _MODELS[name][4] if "CUDA" in machine else None))
    failures = [f"- {name}: {result['failure']}" for name, result in found.items() if "failure" in result]
    for file, text in (("results.json", json.dumps(found, indent=2)), ("results.md", "\n".join([*body, "", *failures]))):
        partial = out / f".{file}"
        partial.write_text(text + "\n")
        partial.replace(out / file)


def result_line(name: str, result: dict[str, Any], aim: float | None) -> str:
    """A line of the table; what has not been measured is a dash."""
    ours, plain = result.get("ours"), result.get("plain")
    shown = "-" if ours is None else f"{ours['images_per_s']:.1f}" + ("" if ours.get("compiled", True) else " (not compiled)")
    share = "-" if ours is None else f"{ours['mfu']:.1%}"
    wanted = "-" if aim is None else f"{aim:.0%}, " + ("met" if ours is not None and ours["mfu"] >= aim else "MISSED")
    other = ["-", "-"] if plain is None else [f"{plain['images_per_s']:.1f}", f"{plain['mfu']:.1%}"]
    ratio = "-" if ours is None or plain is None else f"{ours['images_per_s'] / plain['images_per_s']:.2f}"
    batches = f"{result.get('batch', '-')}" + (f" (plain {plain['batch']})" if plain and plain["batch"] != result.get("batch") else "")
    waits = "-" if ours is None else ours.get("waits", "-")
    return f"| {name} | {batches} | {shown} | {share} | {wanted} | {' | '.join(other)} | {ratio} | {waits} |"


# --- the child: one model --------------------------------------------------------------------------------------------


def measure_model(name: str, out: Path, *, smoke: bool) -> None:
    """The plain loop first, which needs no compiler, then ours; each is written as soon as it is known."""
    import torch

    from corruptkit_train.meter import count_flops, find_peak
    from corruptkit_train.models import build_model

    if smoke:
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        sys.exit("no GPU that torch can use; --smoke measures tiny models on the CPU")
    device = torch.device("cpu" if smoke else "cuda")
    model, shape, batch, _, _ = _MODELS[name]
    if smoke:
        model, shape, batch = _TINY[name], (shape[0], 8, 8), 16
    config = describe_run(model, batch)
    denoiser: Any = build_model(config.model, shape=shape, classes=_CLASSES, seed=0).to(device)
    from corruptkit_train.conditions import Condition

    flops = count_flops(denoiser, Condition(ids=torch.tensor([_CLASSES], device=device)), device)
    found: dict[str, Any] = {"machine": describe_machine(device), "flops": flops, "shape": shape}
    file = out / f"{name.replace('/', '-')}.json"

    def note(**more: Any) -> None:
        found.update(more)
        file.write_text(json.dumps(found, indent=2))

    note(parameters=sum(weight.numel() for weight in denoiser.parameters()), peak=find_peak(device, "bf16"))
    plain = with_less(lambda count: time_plain(denoiser, count, flops / found["peak"][0], smoke=smoke), batch)
    note(plain=plain)
    # Not compiled first: should the compiler fail, or not end in its time, there is a number of ours.
    # On a CPU, compiling a UNet takes longer than all the rest of --smoke.
    for compiled in (False,) if smoke and model["kind"] == "unet" else (False, True):
        settings = {"compiled": compiled, "channels_last": not smoke and model["kind"] == "unet"}
        ours = with_less(lambda count: time_ours(describe_run(model, count, **settings), denoiser, out, name), batch)  # noqa: B023
        note(batch=ours.pop("batch"), ours=ours | {"compiled": compiled}, **({} if compiled else {"eager": ours}))


def describe_run(model: dict[str, Any], batch: int, *, compiled: bool = False, channels_last: bool = False) -> Any:
    from corruptkit_train.config import parse_config

    machine = {"compile": compiled, "report": _REPORT, "channels_last": channels_last}
    table = {
        "images": batch * _REPORT * (_LINES if compiled else _LINES - 2),
        "precision": "bf16",
        "data": {"size": 32},
        "condition": {"kind": "class"},
        "model": model,
        "optimiser": {"batch": batch},
        "machine": machine,
    }
    return parse_config(table, "gpu.py")


def describe_machine(device: Any) -> dict[str, str]:
    from importlib.metadata import version

    import torch

    name = torch.cuda.get_device_name() if device.type == "cuda" else f"a CPU ({platform.processor() or platform.machine()})"
    cuda = {"CUDA": str(torch.version.cuda)} if device.type == "cuda" else {}
    return (
        {"device": name, "Python": platform.python_version()}
        | cuda
        | {part: version(part) for part in ("torch", "diffusers", "accelerate")}
    )


def with_less(measure: Callable[[int], dict[str, Any]], batch: int) -> dict[str, Any]:
    """Measure with half the images until they fit."""
    import torch

    import corruptkit as ck

    while True:
        try:
            return measure(batch) | {"batch": batch}
        except (torch.OutOfMemoryError, ck.CatalogError) as error:
            if batch == 1 or not (isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)):
                raise
            print(f"{batch} images do not fit", flush=True)
        batch //= 2
        gc.collect()
        torch.cuda.empty_cache()


class Latents:
    """Random latents on the host, in 16 bits as a cache has them, with what a run asks of its images."""

    held, ahead, _held = True, False, True

    def __init__(self, shape: tuple[int, int, int], waits: list[str]) -> None:
        import torch

        from corruptkit_train.draws import draw_normal
        from corruptkit_train.images import ImageConfig

        self.config, self.waits, self._turn = ImageConfig(size=shape[1]), waits, 0
        self._rows = draw_normal(0, "start", torch.arange(_ROWS), shape).half()
        self._stack = contextlib.ExitStack()

    def __len__(self) -> int:
        return _ROWS

    def load(self, rows: Any, numbers: Any, seed: int) -> tuple[Any, Any]:  # noqa: ARG002 - as any images are asked for
        self._watch()
        return self._rows[rows], rows

    def prepare(self, images: Any, numbers: Any, seed: int) -> Any:  # noqa: ARG002
        return images.float()

    def _watch(self) -> None:
        """Count what waits for the GPU, from the beginning of one step to that of another."""
        import torch

        if torch.cuda.is_available() and self._turn == _CHECKED.start:
            self._stack.enter_context(record_waits(self.waits))
        if self._turn == _CHECKED.stop:
            self._stack.close()
        self._turn += 1


@contextlib.contextmanager
def record_waits(waits: list[str]) -> Iterator[None]:
    """Where torch says that the processor waits for the GPU."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
            waits.extend(f"{warning.filename}:{warning.lineno}" for warning in said if "synchroniz" in str(warning.message))


def time_ours(config: Any, denoiser: Any, out: Path, name: str) -> dict[str, Any]:
    """The loop as it is, on a copy of the network; only the checkpoint at its end is not written."""
    import shutil

    import torch
    from accelerate import Accelerator

    from corruptkit_train import loop
    from corruptkit_train.conditions import ClassConditions

    home = out / f"{name.replace('/', '-')}-run"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    waits: list[str] = []
    labels = torch.arange(_ROWS) % _CLASSES
    material = loop.Material(Latents(denoiser.sample_shape, waits), ClassConditions(lambda _: labels, _CLASSES, _ROWS))  # type: ignore[arg-type]
    loop.save_checkpoint = lambda out, *_: out  # type: ignore[assignment]  # ten gigabytes that are not what is timed
    accelerator = Accelerator(mixed_precision="no", cpu=next(denoiser.parameters()).device.type == "cpu")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # of the loops before
    began = time.perf_counter()
    loop.train_model(config, copy.deepcopy(denoiser), material, loop.Home(home, {}), images=config.images, accelerator=accelerator)
    lines = [json.loads(line) for line in (home / "log.jsonl").read_text().splitlines()]
    shutil.rmtree(home)
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    places = sorted(set(waits))
    counted = {"waits": len(waits) / len(_CHECKED), "waited_at": places} if torch.cuda.is_available() else {}
    more = {**counted, "gib": round(memory, 1), "took": time.perf_counter() - began}
    return describe_lines(lines[2:]) | more  # the first lines hold the compiler, and the steps that were watched


def time_plain(denoiser: Any, batch: int, share: float, *, smoke: bool) -> dict[str, Any]:
    """A loop as public trainers write it; `share` is a second's part of the peak that one image of a step takes."""
    import torch
    from diffusers import DDPMScheduler

    from corruptkit_train.conditions import Condition

    device = next(denoiser.parameters()).device
    network = copy.deepcopy(denoiser).train()
    averaged = copy.deepcopy(network).requires_grad_(requires_grad=False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0)
    scheduler = DDPMScheduler(1000)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(_ROWS, *denoiser.sample_shape, generator=generator)
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 6 or time.perf_counter() - began < (1.0 if smoke else _PLAIN_SECONDS):
        started = time.perf_counter()
        rows = torch.randint(_ROWS, (batch,), generator=generator)
        clean, labels = latents[rows].to(device), (rows % _CLASSES).to(device)
        labels = torch.where(torch.rand(batch, device=device) < 0.1, _CLASSES, labels)
        noise = torch.randn_like(clean)
        times = torch.randint(1000, (batch,), device=device)
        with torch.autocast(device.type, torch.bfloat16):
            told = network.embed(Condition(ids=labels))
            prediction = network(scheduler.add_noise(clean, noise, times), times, told)
            loss = torch.nn.functional.mse_loss(prediction.float(), noise)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            for average, weight in zip(averaged.parameters(), network.parameters(), strict=True):
                average.mul_(0.9999).add_(weight, alpha=0.0001)
        loss.item()
        taken.append(time.perf_counter() - started)
    rate = batch / statistics.median(taken[3:])
    return {"images_per_s": rate, "mfu": rate * share, "steps": len(taken)}


if __name__ == "__main__":
    main()
