"""Networks on graphs of agents: plain nn.Modules that know no environment, optimiser or trainer."""

from __future__ import annotations

from gcoord.models.encoder import GraphEncoder, MLPEncoder
from gcoord.models.gates import GatedKernel
from gcoord.models.kernels import AdditiveKernel, ConvKernel, EdgeKernel, MeanKernel, RelationKernel

__all__ = [
    "AdditiveKernel",
    "ConvKernel",
    "EdgeKernel",
    "GatedKernel",
    "GraphEncoder",
    "MLPEncoder",
    "MeanKernel",
    "RelationKernel",
]
