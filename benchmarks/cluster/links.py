# SPDX-License-Identifier: Apache-2.0
"""Figures of links, hosts and GPUs, each with its source. None of them was measured by this project."""

from __future__ import annotations

from dataclasses import dataclass

NCCL = "NVIDIA/nccl 5067397c, src/graph/topo.h"


@dataclass(frozen=True)
class Link:
    """One link, in one direction."""

    name: str
    kind: str  # "nvlink", "pcie" or "network": selects NCCL's latencies
    bandwidth: float  # bytes per second that all-reduce achieves for large messages
    source: str


NVLINK_H100 = Link(
    "NVLink 4", "nvlink", 370.8e9, f"18 links of 20.6 GB/s, {NCCL}; measured 365-370, nccl#1455"
)
NVLINK_A100 = Link("NVLink 3", "nvlink", 240e9, f"12 links of 20.0 GB/s, {NCCL}")
PCIE_4 = Link("PCIe 4 x16", "pcie", 24e9, f"twice PCI_BW (generation 3), {NCCL}")
NDR = Link("InfiniBand NDR", "network", 47e9, "46-48 GB/s for each adapter, nccl-tests#290")
HDR = Link("InfiniBand HDR", "network", 24e9, "96 GB/s with 4 adapters, nccl-tests#119")
ETHERNET_100 = Link("100 GbE", "network", 12e9, f"NET_BW, {NCCL}; with TCP sockets only 4-6 GB/s, nccl#450")
ETHERNET_25 = Link("25 GbE", "network", 2.99e9, "25 Gbit/s x 1448 / 1514, the payload of TCP frames")


@dataclass(frozen=True)
class Card:
    """A GPU."""

    name: str
    resnet_50: float  # images per second of a training of ResNet-50, 224 x 224, mixed precision
    memory: float  # bytes per second
    source: str


_RESNET = "NVIDIA/DeepLearningExamples 291f0d02, PyTorch ResNet50 v1.5"
A100 = Card("A100", 2470, 2.039e12, f"{_RESNET}, DGX A100 80 GB")
H100 = Card("H100", 2470 * 3.35 / 2.039, 3.35e12, "A100 x ratio of the memory bandwidths, 3.35 / 2.039 TB/s")


@dataclass(frozen=True)
class Cluster:
    """Equal hosts with equal GPUs."""

    card: Card
    inside: Link
    outside: Link
    adapters: int  # of `outside` in each host
    gpus: int = 8  # in each host

    @property
    def name(self) -> str:
        return f"{self.card.name}, {self.inside.name}, {self.adapters} x {self.outside.name}"


CLUSTERS = (
    Cluster(H100, NVLINK_H100, NDR, 8),
    Cluster(H100, NVLINK_H100, NDR, 1),
    Cluster(A100, NVLINK_A100, HDR, 8),
    Cluster(A100, NVLINK_A100, HDR, 1),
    Cluster(A100, NVLINK_A100, ETHERNET_100, 1),
    Cluster(A100, PCIE_4, ETHERNET_100, 1),
    Cluster(A100, PCIE_4, ETHERNET_25, 1),
)
