"""How a network lies on its devices: whole on each (DDP), or in shards of its weights, gradients and moments (FSDP).

Shards are torch's own `fully_shard` (FSDP2): accelerate, which wraps DDP here, offers its FSDP on accelerators alone, and a run
is to be the same on CPUs. Every checkpoint holds whole tensors by name, so that any number of processes goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def find_regions(denoiser: nn.Module) -> list[nn.Module]:
    """The parts of a network that repeat: each is compiled, and gathered from its shards, by itself."""
    inner: Any = getattr(denoiser, "unet", denoiser)
    if hasattr(inner, "blocks"):
        return list(inner.blocks)
    levels = [*getattr(inner, "down_blocks", ()), getattr(inner, "mid_block", None), *getattr(inner, "up_blocks", ())]
    return [level for level in levels if level is not None]


def compile_regions(denoiser: nn.Module) -> None:
    """Each region as one graph of static shapes; equal blocks share what is compiled, so that depth costs no time.

    What this process compiled for another network is forgotten: it would count towards the few shapes that torch compiles a function for.
    """
    torch.compiler.reset()
    for region in find_regions(denoiser):
        # The forward alone: hooks (of shards, of checkpointing) stay outside of the graph, and names of weights as they are.
        region.forward = torch.compile(region.forward, fullgraph=True, dynamic=False)


def shard_step(step: nn.Module, denoiser: nn.Module, accelerator: Accelerator) -> None:
    """Split each region's parameters over all processes, and what lies outside of regions with the whole step."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for region in find_regions(denoiser):
        fully_shard(region, mesh=mesh)
    fully_shard(step, mesh=mesh)  # its forward gathers the class table and the rest, before any of it is asked for


def local_parts(tensors: list[Any]) -> list[Tensor]:
    """What this process has of each."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of it; where it is in shards, all processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors by name, one after another, on the processes that `keep` them; of the others an empty table."""
    found = {}
    for name, tensor in tensors.items():
        whole = whole_tensor(tensor)
        if keep:
            found[name] = whole.cpu() if isinstance(tensor, DTensor) else whole
    return found


def spread_tensor(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, as a weight lies: on its device, or this process's shard of it."""
    if isinstance(like, DTensor) and whole.shape == like.shape:
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return whole.to(like.device)
