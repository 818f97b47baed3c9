"""What a run says of its speed: images a second, the share of time spent waiting for data, and the share of the machine's peak.

MFU = images/s x FLOPs of an image / peak FLOP/s. FLOPs are counted, not estimated: torch's counter over one forward pass, where a
multiplication and an addition are two; a training step is three forward passes (Kaplan et al. 2020: twice as much backwards).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from corruptkit_train.conditions import Condition
from corruptkit_train.models.denoiser import Denoiser

# Dense matrix products, FLOP/s, as the vendor states them: bfloat16 with float32 sums (TF32 is half of it), and float32.
# The first name that stands in the device's, as whole words. Others are measured, cards without bfloat16 (V100, T4) among them.
_PEAKS = {
    "B200": (2250e12, 75e12),
    "GB200": (2500e12, 80e12),
    "H800 PCIe": (756e12, 51e12),
    "H800": (989e12, 67e12),
    "H200 NVL": (835e12, 60e12),
    "H200": (989e12, 67e12),
    "GH200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100 NVL": (835e12, 60e12),
    "H100": (989e12, 67e12),
    "H20": (148e12, 44e12),
    "A800": (312e12, 19.5e12),
    "A100": (312e12, 19.5e12),
    "A40": (149.7e12, 37.4e12),
    "A30": (165e12, 10.3e12),
    "A10": (125e12, 31.2e12),
    "L40S": (362e12, 91.6e12),
    "L40": (181e12, 90.5e12),
    "L4": (121e12, 30.3e12),
    "RTX 6000 Ada": (364e12, 91.1e12),
    "RTX A6000": (154.8e12, 38.7e12),
    "RTX 5090": (209.5e12, 104.8e12),
    "RTX 4090": (165e12, 82.6e12),
    "RTX 4080": (97.5e12, 48.7e12),
    "RTX 3090": (71e12, 35.6e12),
}


@torch.enable_grad()  # kernels that only sampling uses are not known to the counter
def count_flops(denoiser: Denoiser, condition: Condition, device: torch.device) -> float:
    """FLOPs of one image's training step; `condition` is of one row."""
    # Attention as plain products: the counter does not know the kernel that a CPU has for it.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        sample = torch.zeros(1, *denoiser.sample_shape, device=device)
        denoiser(sample, torch.zeros(1, dtype=torch.int64, device=device), denoiser.embed(condition), condition.mask)
    return 3.0 * float(counter.get_total_flops())


def find_peak(device: torch.device, precision: str) -> tuple[float, str]:
    """The peak FLOP/s of a device and where that is from: the vendor's table, or a product of matrices timed here."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        peak = stated_peak(name, precision)
        if peak:
            return peak, f"{name}, stated"
    kind, size = torch.bfloat16 if precision == "bf16" else torch.float32, 8192 if device.type == "cuda" else 1024
    return _time_product(device, kind, size), "a product of matrices, measured"


def stated_peak(name: str, precision: str) -> float | None:
    """The peak FLOP/s of a device by its name, as the vendor states it."""
    # A part of a card, and a card held down to a laptop's power, have less than what is stated; others of a name are other cards.
    another = re.search(r"MIG|\b(Laptop|Ti|SUPER|D|Max-Q)\b", name)
    for part, (half, full) in _PEAKS.items():
        if re.search(rf"\b{part}\b", name) and not another:
            return {"bf16": half, "tf32": half / 2, "fp32": full}[precision]
    return None


def _time_product(device: torch.device, kind: torch.dtype, size: int, rounds: int = 5) -> float:
    """FLOP/s of the fastest of some products of two square matrices."""
    matrix = torch.ones(size, size, device=device, dtype=kind)
    fastest = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for the device
        fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * float(size) ** 3 / fastest


@dataclass
class Meter:
    """Time since the last report, and how much of it was waiting for data."""

    flops: float  # of an image
    peak: float  # FLOP/s of all devices of the run
    _start: float = field(default_factory=time.perf_counter)
    _waited: float = 0.0
    _images: int = 0

    def wait(self, seconds: float) -> None:
        self._waited += seconds

    def add(self, images: int) -> None:
        self._images += images

    def report(self) -> dict[str, float]:
        """Rates since the last report; the next one counts from here."""
        now = time.perf_counter()
        taken = max(now - self._start, 1e-9)
        rate = self._images / taken
        found = {"images_per_s": rate, "data_wait": self._waited / taken, "mfu": rate * self.flops / self.peak}
        self._start, self._waited, self._images = now, 0.0, 0
        return found
