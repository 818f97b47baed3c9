"""A label that is no number, in a member whose name is nearly as long as a name may be."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import Refused, member, pack, sample


def build(folder: Path) -> Refused:
    odd = member("b" * 10**6 + ".cls", b"cat", form=tarfile.PAX_FORMAT)
    pack(folder / "src" / "a.tar", sample("a", cls=b"1"), odd)
    return Refused("make --source src --flip 0.5", "src/a.tar", "found the label 'cat'", "mend the sample", key="b" * 10**6)
