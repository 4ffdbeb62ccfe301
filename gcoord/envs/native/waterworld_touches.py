"""What waterworld's pursuers get for what they touch: an account of who touched whom, kept as lists of pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gcoord.envs.native.pairs import Pairs


class Meal(NamedTuple):
    """fed [B, N] of 0 and 1, caught [B, E] bool; for the next step counter [B, E], touched [K] and touching [B, N]."""

    fed: Tensor
    caught: Tensor
    counter: Tensor
    touched: Tensor
    touching: Tensor


def meet_evaders(
    near: Pairs, before: Tensor, counter: Tensor, position: Tensor, n_agents: int, n_coop: int, as_reference: bool
) -> Meal:
    """Who is fed and which evaders are caught.

    A new touch adds one to an evader's counter, and from `n_coop` on feeds who touches. Who lets go takes one off;
    where the counter had reached `n_coop`, the first to do so is fed, the evader is caught and its counter 0. New
    touches come before those who let go, and the nearest first; without `as_reference` those who still touch or leave
    what is caught are forgotten.

    Arguments:
        near: all pairs (pursuer, evader) that touch now. before [K']: pairs that touched a step ago, as in `Meal`:
            (team * N + pursuer) * E + evader. counter [B, E]. position [B, T, 2] of pursuers, evaders and others.
    """
    (b, e), n, n_moving = counter.shape, n_agents, position.shape[1]
    touched = (near.team * n + near.receiver) * e + near.thing
    pursuer, evader = _both(torch.cat([touched, before]), n, e)
    new = len(touched)
    begins, ends = ~torch.isin(touched, before), ~torch.isin(before, touched)
    moving = position.flatten(0, 1)
    way = moving[pursuer // n * n_moving + pursuer % n] - moving[evader // e * n_moving + n + evader % e]
    distance = way.square().sum(-1)
    fed = distance.new_zeros(b * n)
    counts = counter.flatten()

    who, whom = pursuer[:new][begins], evader[:new][begins]
    rank = _rank(whom, distance[:new][begins])
    fed[who[counts[whom] + rank + 1 >= n_coop]] = 1.0
    counts = counts.index_add(0, whom, torch.ones_like(rank))
    who, whom = pursuer[new:][ends], evader[new:][ends]
    takes = (counts[whom] >= n_coop) & (_rank(whom, distance[new:][ends]) == 0)
    fed[who[takes]] = 1.0
    caught = torch.zeros_like(counts, dtype=torch.bool)
    caught[whom[takes]] = True
    counts = torch.where(caught, 0, counts).index_add(0, whom, takes.long() - 1)
    touching = torch.zeros_like(fed).index_add_(0, pursuer[:new], torch.ones_like(distance[:new]))
    if not as_reference:
        counts = torch.where(caught, 0, counts)
        touched = touched[~caught[evader[:new]]]
    return Meal(fed.view(b, n), caught.view(b, e), counts.view(b, e), touched, touching.view(b, n))


def meet_poisons(near: Pairs, before: Tensor, n_teams: int, n_agents: int, n_poisons: int) -> tuple[Tensor, ...]:
    """How many poisons each newly touches [B, N], which are touched so [B, P] bool, and who touches whom [K].

    near: all pairs (pursuer, poison) that touch now; before [K']: of a step ago, (team * N + pursuer) * P + poison.
    """
    touched = (near.team * n_agents + near.receiver) * n_poisons + near.thing
    pursuer, poison = _both(touched[~torch.isin(touched, before)], n_agents, n_poisons)
    count = near.dx.new_zeros(n_teams * n_agents).index_add_(0, pursuer, near.dx.new_ones(len(pursuer)))
    drunk = torch.zeros(n_teams * n_poisons, dtype=torch.bool, device=touched.device)
    drunk[poison] = True
    return count.view(n_teams, n_agents), drunk.view(n_teams, n_poisons), touched


def _both(pair: Tensor, n_agents: int, n_things: int) -> tuple[Tensor, Tensor]:
    """Pursuer team * N + i and thing team * M + j of pairs (team * N + i) * M + j."""
    n_things = max(1, n_things)
    pursuer = pair // n_things
    return pursuer, pursuer // n_agents * n_things + pair % n_things


def _rank(group: Tensor, value: Tensor) -> Tensor:
    """How many of the same group [K] come before, by value [K]."""
    order = value.argsort()
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    rank = torch.arange(len(group), device=group.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(rank).scatter_(0, order, rank)
