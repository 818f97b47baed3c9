"""The public surface: these names, each with a docstring, loaded when they are asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import corruptkit as ck
from corruptkit import _HOME_OF

NAMES = [
    "Account",
    "CatalogError",
    "ConflictError",
    "Constant",
    "CorruptkitError",
    "Dataset",
    "DatasetError",
    "Difference",
    "Drop",
    "Flip",
    "Index",
    "IntegrityError",
    "Manifest",
    "Plan",
    "Problem",
    "Recipe",
    "Rewrite",
    "Swap",
    "Verification",
    "Words",
    "corrupt",
    "describe_plan",
    "describe_variant",
    "diff",
    "list_rewrites",
    "load_catalog",
    "load_recipe",
    "make_plan",
    "make_plans",
    "open_dataset",
    "plan_corruption",
    "read_manifest",
    "restore",
    "verify",
    "write_variant",
    "write_variants",
]
# What others call by name: functions, and methods of what those give.
METHODS = {
    "Dataset": ["index", "batches", "rows", "row", "to_webdataset", "to_torch", "with_recipe", "with_edits"],
    "Plan": ["identity", "variant_id", "composed", "counts"],
    "Recipe": ["identity", "in_epoch"],
    "Manifest": ["encode"],
    "Index": ["identity", "rows", "column"],
}


def test_public_names_are_these() -> None:
    assert sorted(ck.__all__) == ck.__all__ == NAMES
    assert dir(ck) == NAMES
    assert sorted(_HOME_OF) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_name_is_importable_and_says_what_it_is(name: str) -> None:
    found = getattr(ck, name)
    assert found.__name__ == name
    assert found.__module__ == f"corruptkit.{_HOME_OF[name]}" or found.__module__.startswith(f"corruptkit.{_HOME_OF[name]}.")
    document = inspect.getdoc(found)
    assert document is not None
    assert document.strip()[0].isupper()


@pytest.mark.parametrize(("owner", "method"), [(owner, method) for owner, methods in METHODS.items() for method in methods])
def test_method_says_what_it_does(owner: str, method: str) -> None:
    assert (inspect.getdoc(getattr(getattr(ck, owner), method)) or "").strip()


def test_parameters_are_annotated() -> None:
    for name in NAMES:
        found = getattr(ck, name)
        if inspect.isfunction(found):
            missing = [p.name for p in inspect.signature(found).parameters.values() if p.annotation is p.empty]
            assert missing == []
            assert inspect.signature(found).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", ["restore", "diff", "commands"])
def test_name_stays_what_it_is_whatever_was_imported_before(first: str, name: str) -> None:
    """A module of the same name must not take the place of a function."""
    import_module(f"corruptkit.{first}")
    assert not inspect.ismodule(getattr(ck, name))


def test_functions_can_be_called_in_any_order() -> None:
    script = "import corruptkit as ck; ck.restore; print(*(callable(name) for name in (ck.verify, ck.diff, ck.write_variant, ck.restore)))"
    assert run_python(script).split() == ["True"] * 4


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'corruptkit' has no attribute 'corrupted'"):
        _ = ck.corrupted
    with pytest.raises(ImportError):
        exec("from corruptkit import corrupted", {})  # noqa: S102 - the statement is the point


def run_python(script: str, *arguments: str) -> str:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True).stdout


def test_star_gives_every_name() -> None:
    script = "from corruptkit import *; print(*sorted(name for name in dir() if not name.startswith('__')))"
    assert run_python(script).split() == sorted(NAMES)


def test_name_is_loaded_when_it_is_asked_for() -> None:
    script = "import sys, corruptkit; print('numpy' in sys.modules); corruptkit.make_plan; print('numpy' in sys.modules)"
    assert run_python(script).split() == ["False", "True"]


def test_package_is_marked_as_typed() -> None:
    assert (Path(ck.__file__).parent / "py.typed").is_file()
