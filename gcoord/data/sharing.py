"""Rewards that neighbours share: what an agent learns from, not what is reported."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gcoord.models.agent import Body
from gcoord.spec import TeamSpec
from gcoord.trajectory import Trajectory


@dataclass(frozen=True)
class Sharing:
    """Each agent also earns a share of what those earn whom it hears.

    Chu et al., Multi-agent Reinforcement Learning for Networked System Control, https://arxiv.org/abs/2004.01339: the
    spatial discount of their rewards, cut off after one edge,

        r~_i = r_i + alpha sum_{j in N(i)} r_j,    N(i): the living agents whom i hears by the run's topology.

    Where agents that earn for themselves would fight over what the team loses, as in DGN's jungle, alpha = 1 makes what
    one does to a neighbour one's own gain or loss. Learning alone reads it: returns and figures are the world's own.

    Arguments:
        neighbours: alpha, 0 to 1.

    Raises ValueError for another alpha, and (`check`) for a world whose agents have a reward in common.
    """

    neighbours: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.neighbours, bool) or not 0 <= self.neighbours <= 1:
            raise ValueError(f"expected sharing.neighbours from 0 to 1 (got {self.neighbours})")

    def __bool__(self) -> bool:
        """Whether anything is shared."""
        return self.neighbours > 0

    def check(self, spec: TeamSpec) -> None:
        """Raises ValueError where rewards are the team's already."""
        if set(spec.reward) != {"own"}:
            raise ValueError(
                f"expected a world whose agents earn for themselves for sharing.neighbours={self.neighbours} (got "
                f"rewards {', '.join(spec.reward)} in {spec.world or 'the world'})"
            )

    @torch.no_grad()
    def __call__(self, trajectory: Trajectory, body: Body) -> Trajectory:
        """The trajectory with shared rewards [T, B, N]; they are those of its rows' own graphs."""
        steps = trajectory.steps
        acts = steps.seen.alive & steps.valid.unsqueeze(-1)
        earned = torch.where(acts, steps.reward, 0.0)
        graph = body.bare_graph(steps.seen, steps.key)
        n = earned.shape[-1]
        if graph.index is None:
            heard = (graph.mask[..., :n].to(earned.dtype) @ earned.unsqueeze(-1)).squeeze(-1)
        else:
            fellow = graph.mask & (graph.index < n)
            at = torch.where(fellow, graph.index, 0).flatten(-2)
            heard = (earned.gather(-1, at).view(graph.index.shape) * fellow).sum(-1)
        steps.reward = torch.where(acts, steps.reward + self.neighbours * heard, steps.reward)
        return trajectory
