from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

import corruptkit as ck
from corruptkit_train.conditions import Condition
from corruptkit_train.models import DiTConfig, Model, UNetConfig, build_model, check_ids
from tests.train.networks import DIT, KINDS, PIXEL, SHAPE, UNET, WIDTH, build_kind, draw_some

torch.set_num_threads(1)


def make_conditions(kind: str) -> tuple[Condition, Condition]:
    """Three conditions, and the null one."""
    _, classes, _, tokens = KINDS[kind]
    if classes is not None:
        return Condition(ids=torch.tensor([0, 2, 3])), Condition(ids=torch.tensor([classes]))
    shape = (5, WIDTH) if tokens else (WIDTH,)
    # The empty caption has fewer tokens: its mask must come along.
    mask = torch.tensor([[True] * 5, [True] * 4 + [False], [True] * 3 + [False] * 2]) if tokens else None
    null_mask = torch.tensor([[True, True, False, False, False]]) if tokens else None
    return Condition(states=draw_some((3, *shape)), mask=mask), Condition(states=draw_some((1, *shape), start=8), mask=null_mask)


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_a_row_is_feeding_the_null_condition_for_it(kind: str) -> None:
    network = build_kind(kind)
    condition, null = make_conditions(kind)
    sample, steps = draw_some((3, *SHAPE)), torch.tensor([1, 400, 999])

    def run(told: Condition, rows: list[int]) -> torch.Tensor:
        return network(sample[rows], steps[rows], network.embed(told), told.mask)

    kept = run(condition, [0, 1, 2])
    mixed = run(condition.dropped(torch.tensor([False, True, False]), null), [0, 1, 2])
    unconditional = run(null, [1])
    # The unconditional path of sampling: every row null, as embed(null) gives it.
    all_null = run(condition.dropped(torch.tensor([True, True, True]), null), [0, 1, 2])
    assert torch.allclose(mixed[1], unconditional[0], atol=1e-5)
    assert torch.allclose(all_null[1], unconditional[0], atol=1e-5)
    assert torch.allclose(mixed[[0, 2]], kept[[0, 2]], atol=1e-5)
    assert (kept[1] - unconditional[0]).abs().max() > 1e-3  # the law says something: the condition matters


@pytest.mark.parametrize("kind", KINDS)
def test_the_null_condition_in_training_is_the_one_of_evaluation(kind: str) -> None:
    network = build_kind(kind)
    _, null = make_conditions(kind)
    inputs = draw_some((1, *SHAPE)), torch.tensor([400]), network.embed(null), null.mask
    # No network draws anything of its own: training mode is evaluation mode.
    assert torch.equal(network.train()(*inputs), network.eval()(*inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_compiles_without_a_break_and_runs_under_autocast(kind: str) -> None:
    network, (condition, _) = build_kind(kind), make_conditions(kind)
    # Detached: dynamo looks at .grad of whatever comes in, and torch warns of that where it is no leaf.
    inputs = draw_some((3, *SHAPE)), torch.tensor([1.5, 400.0, 999.0]), network.embed(condition).detach(), condition.mask
    exact = network(*inputs)
    whole = torch.compile(network, fullgraph=True, backend="eager")  # "eager" traces it all and generates no code
    assert torch.allclose(whole(*inputs), exact, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(*inputs)
    assert (half.float() - exact).norm() / exact.norm() < 0.05


def test_the_null_row_alone_learns_from_a_dropped_batch() -> None:
    network = build_model(UNET, shape=SHAPE, classes=4, seed=0)
    dropped = Condition(ids=torch.tensor([0, 2])).dropped(torch.tensor([True, True]), Condition(ids=torch.tensor([4])))
    network(draw_some((2, *SHAPE)), torch.tensor([1, 2]), network.embed(dropped)).sum().backward()
    touched = network.class_embedder.table.weight.grad.abs().sum(1) > 0
    assert touched.tolist() == [False, False, False, False, True]


def test_ids_outside_the_table_are_refused_where_they_come_from() -> None:
    check_ids(torch.tensor([0, 9, 10]), 10, "labels")  # 10 is the null id
    with pytest.raises(ck.DatasetError) as caught:
        check_ids(torch.tensor([0, 11, -1]), 10, "labels")
    assert str(caught.value) == "labels: class id 11 and 1 more, expected 0 to 9; mend the labels, or state more classes"


def test_a_preset_is_short_for_its_fields() -> None:
    named = TypeAdapter(Model).validate_python({"kind": "dit", "preset": "DiT-B/4", "depth": 3, "learned_variance": True})
    assert named == DiTConfig(depth=3, width=768, heads=12, patch=4, learned_variance=True)
    assert "preset" not in named.model_dump()
    assert TypeAdapter(Model).validate_python(named.model_dump()) == named
    assert TypeAdapter(Model).validate_json(UNetConfig(preset="LDM-4").model_dump_json()) == UNetConfig(preset="LDM-4")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "dit", "preset": "DiT-M/2"}, "found preset 'DiT-M/2', expected one of: DiT-S/2"),
        ({"kind": "dit", "preset": "DiT-S/2", "width": 100}, "found width 100, expected a multiple of 4 and of its 6 heads"),
        ({"kind": "dit", "preset": "DiT-S/2", "pathc": 4}, "Extra inputs are not permitted"),
        ({"kind": "unet", "preset": "LDM-4", "attention": [True]}, "found attention for 1 levels, expected 4"),
        ({"kind": "unet", "preset": "UNet-16", "channels": [60, 120]}, "found 60 channels, expected a multiple of norm_groups 32"),
        ({"kind": "unet", "preset": "UNet-16", "heads": 3}, "found 128 channels, expected a multiple of heads 3"),
        ({"kind": "pixel-unet", "preset": "Pixel-UNet-16", "head_width": 48}, "found 128 channels, expected a multiple of head_width 48"),
        ({"kind": "transformer"}, "expected tags"),
    ],
)
def test_a_wrong_configuration_is_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        TypeAdapter(Model).validate_python(fields)


@pytest.mark.parametrize(
    ("config", "data", "message"),
    [
        (DIT, {"classes": 4, "text_width": 12}, "model: 4 classes and text of width 12, expected one class or more, or text; "),
        (DIT, {"classes": 0}, "model: 0 classes and text of width None, expected one class or more, or text; "),
        (DIT, {}, "model: None classes and text of width None, expected one class or more, or text; "),
        (DIT, {"text_width": 12, "tokens": True}, "model: kind 'dit' with token states, expected pooled states; "),
        (PIXEL, {"text_width": 12}, "model: kind 'pixel-unet' with text, expected classes; choose kind 'unet' or 'dit'"),
        (DIT, {"classes": 4, "shape": (3, 7, 7)}, "model: samples of 7 x 7, expected a square side divisible by 2; change patch"),
        (UNET, {"classes": 4, "shape": (3, 8, 6)}, "model: samples of 8 x 6, expected a square side divisible by 2; change channels"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(config: Any, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ck.CatalogError) as caught:
        build_model(config, **{"shape": SHAPE, "seed": 0} | data)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_reading_a_configuration_imports_nothing_heavy() -> None:
    code = "import sys; from corruptkit_train.models import DiTConfig; DiTConfig(preset='DiT-S/2')"
    code += "; print({'torch', 'diffusers'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "set()\n"
