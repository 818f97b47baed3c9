"""The moving average against its formula."""

from __future__ import annotations

import torch
from torch import nn

from corruptkit_train.averages import Average, copy_weights


def steps(average: Average, module: nn.Linear, values: list[float]) -> None:
    for value in values:
        with torch.no_grad():
            module.weight.fill_(value)
        average.update(module)


def test_decay_warms_up() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average = Average(module, 0.9999)
    assert average.next_decay() == 1 / 10
    steps(average, module, [2.0, 3.0])
    expected = 1.0 * 0.1 + 2.0 * 0.9
    expected = expected * 2 / 11 + 3.0 * 9 / 11
    assert torch.allclose(average.state()["weight"], torch.tensor(expected))
    average.updates = 10**6
    assert average.next_decay() == 0.9999
    assert Average(module, 0.5, warmup=False).next_decay() == 0.5


def test_an_average_goes_on_where_it_was() -> None:
    module = nn.Linear(2, 3)
    whole, half = Average(module, 0.9), Average(module, 0.9)
    steps(whole, module, [1.0, 2.0])  # type: ignore[arg-type]
    steps(half, module, [1.0, 2.0])  # type: ignore[arg-type]
    again = Average(nn.Linear(2, 3), 0.9)
    again.load(half.state(), half.updates)
    steps(whole, module, [5.0])  # type: ignore[arg-type]
    steps(again, module, [5.0])  # type: ignore[arg-type]
    assert all(torch.equal(whole.state()[name], again.state()[name]) for name in whole.state())


def test_weights_are_copied_by_name() -> None:
    one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    copy_weights(dict(one.named_parameters()), ("weight",), other)
    assert torch.equal(one.weight, other.weight)
    assert not torch.equal(one.bias, other.bias)
