"""The command line of the training backend: each command is one library call."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence
from typing import Any

from corruptkit.terminal import Commands, add_command, run_program, start_parser, whole_number

_EXAMPLES = """examples:
  corruptkit-train run laptop-openmoji-text --data openmoji-swap-0.05-s0 --out runs/swap-0.05
  corruptkit-train run my-run.toml --data imagenet-flip-0.05-s0 --out runs/flip --set optimiser.rate=0.0002
  corruptkit-train cache my-latents.toml --data imagenet --out imagenet-latents
  corruptkit-train run my-latents.toml --data imagenet-flip-0.05-s0 --latents imagenet-latents --out runs/latents
  corruptkit-train sample runs/swap-0.05 --count 64 --scale 1,1.5,2 --out samples
  accelerate launch -m corruptkit_train run my-run.toml --data imagenet-flip-0.05-s0 --out runs/flip
  torchrun --nproc-per-node 8 -m corruptkit_train sample runs/flip --count 50000 --scale 1.5 --out samples
"""


def build_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser, commands = start_parser("corruptkit-train", "Train, sample and measure diffusion models on corrupted variants.", _EXAMPLES)
    _add_cache(commands)
    _add_estimate(commands)
    _add_run(commands)
    _add_sample(commands)
    _add_autoencoder(commands)
    return parser


def _add_cache(commands: Any) -> None:
    parser = add_command(commands, "cache", "encode an image set once: latents for every run on it and on its variants")
    parser.add_argument("config", metavar="RUN.toml", help="a run with a table [latents], in TOML, a run.json, or a preset")
    parser.add_argument("--data", metavar="PATH", required=True, help="a source, or a variant of it: labels and captions stay outside")
    parser.add_argument("--source", metavar="PATH", help="where the source of an overlay lies, if not where it was")
    parser.add_argument("--out", metavar="CACHE", required=True, help="a new folder; an unfinished cache of the same images is finished")
    parser.add_argument("--flipped", action="store_true", help="mirrored images as well (by itself where data.flip is true)")
    parser.add_argument(
        "--workers", type=whole_number, metavar="N", help="processes that encode (default: one a core, four an accelerator)"
    )
    parser.add_argument("--rows-per-shard", type=whole_number, metavar="N", default=4096, help="rows of a file (default 4096)")
    parser.add_argument("--verify", action="store_true", help="make nothing: compare shards with their SHA-256, and images with digests")
    parser.add_argument("--deep", action="store_true", help="--verify, and encode 64 rows again")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the run; can be given often")


def _add_run(commands: Any) -> None:
    parser = add_command(commands, "run", "train a model, or go on training it")
    parser.add_argument("config", metavar="RUN.toml", help="a run in TOML, the config of an earlier run (its run.json), or a preset")
    parser.add_argument("--data", metavar="PATH", required=True, help="a variant, or a source (a folder or a URL) for a clean run")
    parser.add_argument("--source", metavar="PATH", help="where the source of an overlay lies, if not where it was")
    parser.add_argument("--latents", metavar="CACHE", help="the cache of the images' latents, for a run with a table [latents]")
    parser.add_argument("--out", metavar="DIR", required=True, help="the run's folder; one that holds this run is resumed")
    parser.add_argument("--images", type=whole_number, metavar="N", help="images to have trained on in all (default: the run's)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the run; can be given often")


def _add_estimate(commands: Any) -> None:
    parser = add_command(commands, "estimate", "say what a run would cost, in hours of a GPU, without starting it")
    parser.add_argument("config", metavar="RUN.toml", help="a run in TOML, the config of an earlier run (its run.json), or a preset")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the run; can be given often")


def _add_sample(commands: Any) -> None:
    parser = add_command(commands, "sample", "sample a trained model: images with a manifest that names the checkpoint")
    parser.add_argument("run", metavar="DIR", help="the run's folder")
    parser.add_argument("--count", type=whole_number, metavar="N", required=True, help="images for each scale")
    parser.add_argument("--scale", metavar="S", help="guidance scale, 1 for none; several with commas (default: the run's)")
    parser.add_argument("--out", metavar="DIR", required=True, help="a new folder; an unfinished one of the same request is finished")
    parser.add_argument("--seed", type=whole_number, metavar="S", default=0, help="of the starts: image i is the same for any count")
    parser.add_argument("--prompts", metavar="FILE", help="captions, one a line, taken in turn (text models)")
    parser.add_argument("--labels", metavar="LIST", help="classes, with commas, taken in turn (default: all classes)")
    parser.add_argument("--checkpoint", type=whole_number, metavar="IMAGES", help="images seen at the checkpoint (default: the newest)")
    parser.add_argument("--weights", choices=("average", "raw"), default="average", help="the moving average (default) or the weights")
    parser.add_argument("--batch", type=whole_number, metavar="N", default=64, help="images at a time over all scales (default 64)")
    parser.add_argument(
        "--format", choices=("tar", "npz"), default="tar", help="PNGs in tars (default), or one array as evaluators read it"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A=B", help="change a field of the sampler: steps, name, interval ..."
    )


def _add_autoencoder(commands: Any) -> None:
    parser = add_command(commands, "autoencoder", "train a small autoencoder on images, for latents without a download")
    parser.add_argument("config", metavar="RUN.toml", help="its training in TOML, that of an earlier one (its run.json), or a preset")
    parser.add_argument("--data", metavar="PATH", required=True, help="a source or a variant: only its images count")
    parser.add_argument("--source", metavar="PATH", help="where the source of an overlay lies, if not where it was")
    parser.add_argument("--out", metavar="DIR", required=True, help="its folder; one that holds this training is resumed")
    parser.add_argument("--images", type=whole_number, metavar="N", help="images to have trained on in all (default: the file's)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field; can be given often")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 done, 1 the answer is no, 2 a user's error, 130 interrupted."""
    return run_program(build_parser(), _load_commands, argv)


def _load_commands() -> Commands:
    """The commands, with all that they need; a Ctrl-C meanwhile counts when they are loaded.

    Packages that catch every exception while they are imported would go on half-made, and fail later for reasons of their own.
    """
    told: list[int] = []

    def note(number: int, _frame: object) -> None:
        if told:
            raise KeyboardInterrupt
        told.append(number)

    here = threading.current_thread() is threading.main_thread()  # signals of another thread are somebody else's
    before = signal.signal(signal.SIGINT, note) if here else None
    try:
        from corruptkit_train.commands import COMMANDS
    finally:
        if here:
            signal.signal(signal.SIGINT, before)
    if told:
        raise KeyboardInterrupt
    return COMMANDS
