"""Names and groups of ImageNet's classes, from WordNet 3.0 and from timm's list of the classes.

    python pipelines/imagenet_groups.py --download                      packages by pip and apt-get, into a temporary folder
    python pipelines/imagenet_groups.py --noun data.noun --synsets imagenet_synsets.txt [--out CATALOG]

data.noun is in Debian's wordnet-base 1:3.0, timm/data/_info/imagenet_synsets.txt in the wheel of timm. WordNet 3.1 has other offsets.

Names: the first word of a class's synset. Where two names are equal in lower case, each is followed by the first word of its first
hypernym in brackets: "crane (wading bird)", "crane (lifting device)".

Superclasses: the synsets above the classes, along first hypernyms, are visited from the deepest (of equal depth, the smaller offset
first). A synset that has at least 4 classes below it (or is one of them) which no deeper synset took makes them one group, unless more
than an eighth of all classes are below it: "organism" and "device" say too little. What nobody took is in no group. imagenet100.txt's 100
classes are cut by the same rule, applied to these alone.

CIFAR-100: cifar100_synsets.json gives each of its 100 classes the synsets that its name means. A class of ImageNet overlaps with it if its
synset is one of these or lies under one, along any hypernyms. imagenet-cifar100.json holds all overlapping classes as one group: the paper
(arXiv 2405.20494) flips inside of that set. In imagenet-cifar100-superclasses.json they are grouped by CIFAR-100's superclasses; a class
under several synsets goes with the one that is the fewest steps above it, of equally near ones the first of the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
CATALOG = HERE.parent / "catalog"
LEAST = 4  # classes in a superclass
SHARE = 8  # a synset with more than one in this many of all classes below it is too general


class Synset(NamedTuple):
    """The words and hypernyms of a synset, in WordNet's order."""

    words: tuple[str, ...]
    above: tuple[str, ...]


def read_nouns(path: Path) -> dict[str, Synset]:
    """The synsets of data.noun by WordNet id: n and the offset in 8 digits."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields = line.split(" | ", 1)[0].split()
        first_pointer = 5 + 2 * int(fields[3], 16)  # words stand in pairs with a number, and their count is hexadecimal
        pointers = [fields[at : at + 4] for at in range(first_pointer, first_pointer + 4 * int(fields[first_pointer - 1]), 4)]
        words = tuple(word.replace("_", " ") for word in fields[4 : first_pointer - 1 : 2])
        found[f"n{fields[0]}"] = Synset(words, tuple(f"n{to}" for symbol, to, *_ in pointers if symbol in ("@", "@i")))
    return found


def name_classes(classes: Iterable[str], nouns: Mapping[str, Synset]) -> dict[str, str]:
    """A name for each class, distinct without regard to case."""
    first = {wnid: nouns[wnid].words[0] for wnid in classes}
    times = Counter(name.lower() for name in first.values())
    return {wnid: name if times[name.lower()] == 1 else f"{name} ({nouns[nouns[wnid].above[0]].words[0]})" for wnid, name in first.items()}


def trace_chain(wnid: str, nouns: Mapping[str, Synset]) -> list[str]:
    """A synset and those above it, along first hypernyms, up to the root."""
    chain = [wnid]
    while nouns[chain[-1]].above:
        chain.append(nouns[chain[-1]].above[0])
    return chain


def cut_tree(classes: list[str], nouns: Mapping[str, Synset]) -> list[list[int]]:
    """Superclasses: disjoint groups of the classes' numbers."""
    below: dict[str, list[int]] = defaultdict(list)
    depth = {}
    for number, wnid in enumerate(classes):
        chain = trace_chain(wnid, nouns)
        for steps, synset in enumerate(chain):
            below[synset].append(number)
            depth[synset] = len(chain) - steps
    groups: list[list[int]] = []
    taken: set[int] = set()
    for synset in sorted(below, key=lambda synset: (-depth[synset], synset)):
        free = [number for number in below[synset] if number not in taken]
        if len(free) >= LEAST and len(below[synset]) * SHARE <= len(classes):
            groups.append(free)
            taken.update(free)
    return sorted(groups)


def count_steps(wnid: str, nouns: Mapping[str, Synset]) -> dict[str, int]:
    """Every synset at or above one, along any hypernyms, with the fewest steps to it."""
    steps, front = {wnid: 0}, [wnid]
    while front:
        upper = [above for synset in front for above in nouns[synset].above if above not in steps]
        steps |= dict.fromkeys(upper, steps[front[0]] + 1)
        front = list(dict.fromkeys(upper))
    return steps


def match_cifar(classes: list[str], nouns: Mapping[str, Synset], table: Mapping[str, Mapping[str, list[str]]]) -> list[list[int]]:
    """The classes that overlap with CIFAR-100, by its superclasses in their order, without empty ones."""
    groups: dict[str, list[int]] = {superclass: [] for superclass in table}
    places = [(superclass, synset) for superclass, fine in table.items() for synsets in fine.values() for synset in synsets]
    for number, wnid in enumerate(classes):
        steps = count_steps(wnid, nouns)
        over = [(steps[synset], place, superclass) for place, (superclass, synset) in enumerate(places) if synset in steps]
        if over:
            groups[min(over)[2]].append(number)
    return [group for group in groups.values() if group]


def derive_files(noun: Path, synsets: Path) -> dict[str, list[str] | list[list[int]]]:
    """What each file of the catalog must hold, by its path there."""
    nouns, classes = read_nouns(noun), synsets.read_text(encoding="utf-8").split()
    hundred = (CATALOG / "sources" / "imagenet100.txt").read_text(encoding="utf-8").split()
    names = name_classes(classes, nouns)
    cifar = match_cifar(classes, nouns, json.loads((HERE / "cifar100_synsets.json").read_text(encoding="utf-8")))
    return {
        "sources/imagenet-names.json": [names[wnid] for wnid in classes],
        "sources/imagenet100-names.json": [names[wnid] for wnid in hundred],
        "variants/imagenet-superclasses.json": cut_tree(classes, nouns),
        "variants/imagenet100-superclasses.json": cut_tree(hundred, nouns),
        "variants/imagenet-cifar100.json": [sorted(number for group in cifar for number in group)],
        "variants/imagenet-cifar100-superclasses.json": cifar,
    }


def format_rows(rows: list[str] | list[list[int]]) -> str:
    """JSON with a name or a group a line."""
    return "[\n" + ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows) + "\n]\n"


def download_packages(folder: Path) -> tuple[Path, Path]:
    """data.noun and imagenet_synsets.txt, out of the packages that hold them; nothing is installed."""
    subprocess.run(["apt-get", "download", "-qq", "wordnet-base"], cwd=folder, check=True)  # noqa: S607
    subprocess.run([sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(folder), "timm"], check=True)
    subprocess.run(["dpkg-deb", "-x", next(folder.glob("wordnet-base_*3.0-*.deb")), "wordnet"], cwd=folder, check=True)  # noqa: S607
    with zipfile.ZipFile(next(folder.glob("timm-*.whl"))) as wheel:
        synsets = wheel.extract("timm/data/_info/imagenet_synsets.txt", folder)
    return folder / "wordnet/usr/share/wordnet/data.noun", Path(synsets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--download", action="store_true", help="fetch wordnet-base and timm into a temporary folder")
    parser.add_argument("--noun", type=Path, help="WordNet 3.0's data.noun")
    parser.add_argument("--synsets", type=Path, help="timm's imagenet_synsets.txt")
    parser.add_argument("--out", type=Path, default=CATALOG, help="the catalog to write to (default: this one)")
    args = parser.parse_args()
    if not args.download and (args.noun is None or args.synsets is None):
        parser.error("state --noun and --synsets, or --download")
    with tempfile.TemporaryDirectory() as folder:
        noun, synsets = download_packages(Path(folder)) if args.download else (args.noun, args.synsets)
        for name, rows in derive_files(noun, synsets).items():
            (args.out / name).parent.mkdir(parents=True, exist_ok=True)
            (args.out / name).write_text(format_rows(rows), encoding="utf-8")
            groups = [row for row in rows if isinstance(row, list)]
            sizes = f", {sum(map(len, groups))} classes, {min(map(len, groups))} to {max(map(len, groups))} each" if groups else ""
            print(f"{args.out / name}: {len(rows)} {'groups' if groups else 'names'}{sizes}")


if __name__ == "__main__":
    main()
