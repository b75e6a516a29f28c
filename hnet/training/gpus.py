"""What accelerators can do, from their makers' data sheets. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GPU:
    """One accelerator. Rates are the makers' figures, which no program reaches."""

    memory_gib: float
    flops: float
    """FLOP/s of dense bf16 matrix products with fp32 sums, without sparsity."""
    memory_bytes_per_s: float
    host_bytes_per_s: float
    """To or from the memory of the host, one direction."""
    watts: float
    """Of the whole board at full load."""
    source: str


_PCIE_4, _PCIE_5 = 32e9, 64e9

GPUS = {
    "A100": GPU(80, 312e12, 2.039e12, _PCIE_4, 400, "NVIDIA A100 80GB SXM data sheet"),
    "A100-40GB": GPU(40, 312e12, 1.555e12, _PCIE_4, 400, "NVIDIA A100 40GB SXM data sheet"),
    "H100": GPU(80, 989e12, 3.35e12, _PCIE_5, 700, "NVIDIA H100 SXM data sheet"),
    "H100-PCIE": GPU(80, 756e12, 2.0e12, _PCIE_5, 350, "NVIDIA H100 PCIe data sheet"),
    "H200": GPU(141, 989e12, 4.8e12, _PCIE_5, 700, "NVIDIA H200 SXM data sheet"),
    "B200": GPU(180, 2250e12, 7.7e12, _PCIE_5, 1000, "NVIDIA HGX B200 data sheet, an eighth of the board"),
    "L40S": GPU(48, 362e12, 0.864e12, _PCIE_4, 350, "NVIDIA L40S data sheet"),
    "RTX4090": GPU(24, 165e12, 1.008e12, _PCIE_4, 450, "NVIDIA Ada whitepaper, bf16 with fp32 sums"),
    "RTX3090": GPU(24, 71e12, 0.936e12, _PCIE_4, 350, "NVIDIA Ampere whitepaper, bf16 with fp32 sums"),
}
