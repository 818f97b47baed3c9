"""Exact, deterministic, provable corruption of the labels and captions of image data sets."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corruptkit.accounting import Account, describe_plan, describe_variant
    from corruptkit.catalog import load_catalog
    from corruptkit.corruptions import Constant, Drop, Flip, Rewrite, Swap, Words
    from corruptkit.dataset import Dataset
    from corruptkit.diff import Difference, diff
    from corruptkit.errors import CatalogError, ConflictError, CorruptkitError, DatasetError, IntegrityError, Problem
    from corruptkit.index import Index
    from corruptkit.manifest import Manifest, read_manifest
    from corruptkit.memory import corrupt, plan_corruption
    from corruptkit.opening import open_dataset
    from corruptkit.plan import Plan, list_rewrites, make_plan, make_plans
    from corruptkit.recipe import Recipe, load_recipe
    from corruptkit.restore import restore
    from corruptkit.verify import Verification, verify
    from corruptkit.write import write_variant, write_variants

# Where each public name lives; a name is imported when it is first used, so that `import corruptkit` costs nothing.
_HOMES = {
    "accounting": ("Account", "describe_plan", "describe_variant"),
    "catalog": ("load_catalog",),
    "corruptions": ("Constant", "Drop", "Flip", "Rewrite", "Swap", "Words"),
    "dataset": ("Dataset",),
    "diff": ("Difference", "diff"),
    "errors": ("CatalogError", "ConflictError", "CorruptkitError", "DatasetError", "IntegrityError", "Problem"),
    "index": ("Index",),
    "manifest": ("Manifest", "read_manifest"),
    "memory": ("corrupt", "plan_corruption"),
    "opening": ("open_dataset",),
    "plan": ("Plan", "list_rewrites", "make_plan", "make_plans"),
    "recipe": ("Recipe", "load_recipe"),
    "restore": ("restore",),
    "verify": ("Verification", "verify"),
    "write": ("write_variant", "write_variants"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
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


class _Package(ModuleType):
    """Importing corruptkit.verify must not put that module in the place of the function `verify`."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'corruptkit' has no attribute '{name}'")
    value = getattr(import_module(f"corruptkit.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
