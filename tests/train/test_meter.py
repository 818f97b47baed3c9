"""FLOPs are counted as the formula has them; peaks are stated or measured; rates are per report."""

from __future__ import annotations

import time

import pytest
import torch

from corruptkit_train import meter
from corruptkit_train.conditions import Condition
from corruptkit_train.meter import Meter, count_flops, find_peak
from corruptkit_train.models import DiTConfig, build_model


def test_flops_of_a_transformer_are_its_formula() -> None:
    """L blocks of N tokens of width d: 12 N d^2 + 2 N^2 d + 6 d^2 multiply-accumulates each, as the survey's formula has it."""
    depth, width, patch, side = 3, 64, 2, 16
    net = build_model(DiTConfig(depth=depth, width=width, heads=4, patch=patch), shape=(4, side, side), classes=10, seed=0)
    tokens = (side // patch) ** 2
    blocks = depth * (12 * tokens * width**2 + 2 * tokens**2 * width + 6 * width**2)
    ends = 2 * tokens * width * 4 * patch**2 + 256 * width + width**2 + 2 * width**2
    found = count_flops(net, Condition(ids=torch.tensor([10])), torch.device("cpu"))
    assert found == pytest.approx(3 * 2 * (blocks + ends), rel=1e-6)


def test_a_peak_is_stated_for_a_known_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    device = torch.device("cuda")
    assert find_peak(device, "bf16") == (989e12, "NVIDIA H100 80GB HBM3, stated")
    assert find_peak(device, "tf32")[0] == 989e12 / 2
    assert find_peak(device, "fp32")[0] == 67e12


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA H800 PCIe", 756e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
    ],
)
def test_a_name_is_not_that_of_another(monkeypatch: pytest.MonkeyPatch, name: str, peak: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert find_peak(torch.device("cuda"), "bf16")[0] == peak


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A4000",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4080 SUPER",
        "NVIDIA GeForce RTX 3090 Ti",
        "Tesla T4",
    ],
)
def test_a_device_that_is_not_in_the_table_is_measured(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(meter, "_time_product", lambda *_: 7.0)
    assert find_peak(torch.device("cuda"), "bf16") == (7.0, "a product of matrices, measured")


def test_a_peak_is_measured_elsewhere() -> None:
    peak, source = find_peak(torch.device("cpu"), "fp32")
    assert 1e8 < peak < 1e15
    assert source.endswith("measured")


def test_rates_count_from_the_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 12.0])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(clock))
    watch = Meter(flops=1e6, peak=1e9, _start=time.perf_counter())
    watch.add(500)
    watch.wait(1.0)
    assert watch.report() == {"images_per_s": 50.0, "data_wait": 0.1, "mfu": 0.05}
    watch.add(20)
    assert watch.report() == {"images_per_s": 10.0, "data_wait": 0.0, "mfu": 0.01}
