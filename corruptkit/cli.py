"""The command line: each command translates its words into one library call and prints what that gives."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from corruptkit.terminal import Commands, add_command, one_of, run_program, start_parser, whole_number

_CATALOG = "another catalog than the one that ships ($CORRUPTKIT_CATALOG)"
_EXAMPLES = """examples:
  corruptkit make --dataset openmoji --swap 0.05
  corruptkit make --source /data/imagenet --flip 0.025,0.05 --mode prior --format overlay
  corruptkit verify openmoji-swap-0.05-s0
"""


def build_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser, commands = start_parser("corruptkit", "Make corrupted variants of image data sets: exact, seed-tracked, verified.", _EXAMPLES)
    _add_make(commands)
    _add_readers(commands)
    return parser


def _add_make(commands: Any) -> None:
    for name, text in (
        ("make", "write a corrupted variant: shards or an overlay, with a manifest"),
        ("plan", "decide every edit and write the plan alone"),
    ):
        parser = add_command(commands, name, text)
        source = parser.add_argument_group("what to corrupt").add_mutually_exclusive_group()
        source.add_argument(
            "--dataset", metavar="NAME", help="a data set of the catalog: $CORRUPTKIT_DATA/NAME, ./data/NAME, else fetched if free"
        )
        source.add_argument(
            "--source",
            metavar="PATH_OR_URL",
            help="a folder of tars, Parquet, Arrow or images, one shard, a 'DIR/*.tar' pattern, a variant, or a URL",
        )
        what = parser.add_argument_group("how to corrupt it")
        kind = what.add_mutually_exclusive_group()
        kind.add_argument("--flip", metavar="R", help="share of labels to change, 0 to 1; several with commas, one variant each")
        kind.add_argument("--swap", metavar="R", help="share of captions to exchange in pairs, 0 to 1; several with commas")
        kind.add_argument(
            "--drop", metavar="R", help="share of captions to empty, or of labels to replace by the null label K (--mode label)"
        )
        kind.add_argument("--constant", metavar="R", help="share of captions to replace by one --text")
        kind.add_argument("--words", metavar="R", help="share of captions whose words to edit, as much as --level says")
        kind.add_argument("--rewrite", metavar="R", help="share of captions to replace by their text in a --table")
        kind.add_argument("--recipe", metavar="FILE", help="a recipe in TOML: a seed and a chain of corruptions")
        kind.add_argument(
            "--variant", metavar="NAME", help="a variant of the catalog, such as openmoji/swap-0.05-s0; 'openmoji/swap-*' are several"
        )
        what.add_argument(
            "--mode",
            metavar="M",
            help="flip: uniform (default), prior, within, pair, matrix, redraw; swap: any (default), within, far, near; "
            "drop: caption, label; constant: text, template; words: mixed (default), delete, duplicate, transpose, replace",
        )
        _add_content_flags(what)
        what.add_argument(
            "--of", type=one_of("all", "eligible"), metavar="all|eligible", help="what the ratio is a share of (default: all rows)"
        )
        what.add_argument("--seed", metavar="S", help="non-negative integer (default 0); several with commas")
        what.add_argument("--strict", action="store_true", help="fail where fewer rows can change than the ratio asks for")
        _add_source_flags(parser)
        where = parser.add_argument_group("what to write")
        if name == "make":
            where.add_argument("--from", dest="overlay", metavar="OVERLAY", help="write an overlay out, of its source or --source PATH")
            where.add_argument(
                "--format",
                type=one_of("webdataset", "parquet", "arrow", "overlay"),
                metavar="webdataset|parquet|arrow|overlay",
                help="default: the source's own; tars for a folder of images",
            )
        target, ending = ("DIR", "") if name == "make" else ("FILE", ".plan.parquet")
        default = f"default: ./SOURCE-KIND[-MODE]-RATIO-sSEED{ending}; with several variants, the folder of them all"
        where.add_argument("--out", metavar=target, help=default)
        where.add_argument("--workers", type=whole_number, metavar="N", help="processes (default: one a core; to copy tars, one for two)")
        where.add_argument("--catalog", metavar="DIR", help=_CATALOG)


def _add_content_flags(what: Any) -> None:
    """What modes and kinds take besides a ratio: files, texts and levels."""
    what.add_argument("--groups", metavar="FILE", help="groups of classes for --mode within (JSON)")
    what.add_argument("--matrix", metavar="FILE", help="K x K weights for --mode matrix (JSON, CSV, or a CSV true,predicted,count)")
    what.add_argument("--embeddings", metavar="FILE", help="Parquet of key and embedding, for --swap --mode far or near")
    what.add_argument("--level", type=whole_number, metavar="1-5", help="tenths of its words that --words edits in a caption (default 1)")
    what.add_argument("--text", metavar="T", help="the caption that --constant gives; {} in it is the class name of --mode template")
    what.add_argument("--names", metavar="FILE", help="the class names for --constant, a JSON array of K texts (default: the catalog's)")
    what.add_argument("--table", metavar="FILE", help="texts for --rewrite by key and level: Parquet or JSON lines (key, level, text)")
    what.add_argument("--levels", type=whole_number, metavar="N", help="levels of corruption in the --table (default 5)")


def _add_source_flags(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how to read the source")
    how.add_argument("--split", metavar="NAME", help="default: train, or the only one")
    how.add_argument(
        "--classes", type=whole_number, metavar="K", help="how many classes (default: the catalog's, else the largest label + 1)"
    )
    rules = "tars: sample (default), stem, shard/key, ordinal, regex:R, json:FIELD; others: column:NAME, path, stem, regex:R, ordinal"
    how.add_argument("--key", metavar="RULE", help=rules)
    holds = "column, or member suffix or .json field, that holds the label (default: label, cls)"
    how.add_argument("--label-column", metavar="C", help=holds)
    how.add_argument("--caption-column", metavar="C", help="the same for the caption (default: caption, text, txt)")
    how.add_argument("--image-column", metavar="C", help="the same for the image (default: image, or the first image there is)")
    how.add_argument(
        "--bad",
        type=one_of("refuse", "exclude"),
        metavar="refuse|exclude",
        help="what to do with a bad sample: stop (default), or leave it out of the rows, list it, and copy it as it is",
    )


def _add_readers(commands: Any) -> None:
    parser = add_command(commands, "verify", "check a variant's bytes, conditions and plan")
    parser.add_argument("path", metavar="DIR", help="the variant")
    parser.add_argument("--source", metavar="PATH_OR_URL", help="the source: plan again from it and compare")
    parser.add_argument("--embeddings", metavar="FILE", help="the file that --swap --mode far or near was given, to plan again")
    parser.add_argument("--deep", action="store_true", help="compare every byte of the shards with the source (needs --source)")
    parser.add_argument("--workers", type=whole_number, metavar="N", help="processes (default: one a core)")
    parser = add_command(commands, "restore", "write a variant's source back: tars byte for byte, Parquet and Arrow row by row")
    parser.add_argument("path", metavar="DIR", help="the variant")
    parser.add_argument("--out", metavar="DIR", required=True, help="an empty folder, or one that is not there yet")
    parser.add_argument("--source", metavar="PATH_OR_URL", help="where an overlay's source lies, if not where it was")
    parser = add_command(commands, "diff", "compare two sources or variants row by row")
    parser.add_argument("first", metavar="A", help="a source or variant")
    parser.add_argument("second", metavar="B", help="another")
    parser.add_argument("--limit", type=whole_number, metavar="N", default=20, help="differences to print (default 20)")
    parser = add_command(commands, "show", "print what a variant is and what was done to it")
    parser.add_argument("path", metavar="DIR", help="the variant")
    parser.add_argument("--counts", action="store_true", help="also compare with the source's rows: classes, captions, the law of the mode")
    parser.add_argument(
        "--source", metavar="PATH_OR_URL", help="the same, with the source that lies there: an overlay's, if not where it was"
    )
    parser.add_argument(
        "--edits", type=whole_number, metavar="N", default=0, help="print N edits too, old and new, in the order of their rank"
    )
    parser = add_command(commands, "index", "index a source, and print what it holds")
    parser.add_argument("source", metavar="PATH", help="what `make --source` takes")
    parser.add_argument("--workers", type=whole_number, metavar="N", help="processes (default: one a core)")
    _add_source_flags(parser)
    parser = add_command(commands, "list", "list what there is: sources, variants or kinds")
    parser.add_argument("what", type=one_of("sources", "variants", "kinds"), metavar="sources|variants|kinds", help="what to list")
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="only what this matches, such as 'cc3m/swap-*'")
    parser.add_argument("--catalog", metavar="DIR", help=_CATALOG)
    parser = add_command(commands, "fetch", "get a data set that is free to have")
    parser.add_argument("name", metavar="NAME", help="a data set of `corruptkit list sources`")
    parser.add_argument("--out", metavar="DIR", help="default: $CORRUPTKIT_DATA/NAME, else ./data/NAME")
    parser.add_argument("--from", dest="given", metavar="DIR", help="a folder that holds what would be downloaded: no network is used")
    parser.add_argument("--catalog", metavar="DIR", help=_CATALOG)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 done, 1 the answer is no, 2 a user's error, 130 interrupted."""
    return run_program(build_parser(), _load_commands, argv)


def _load_commands() -> Commands:
    from corruptkit.commands import COMMANDS

    return COMMANDS
