"""Grids of many teams at once: random maps, moves that conflict, and what agents see around them.

A map of side S lies inside a border of blocked cells, P = S + 2 * border cells a side, and its cells are numbered row
by row, so that a neighbour is always an addition away. A board [B, P * P] holds WALL, FREE, or the agent on a cell.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Rule = Literal["priority", "block_both", "soft"]
WALL, FREE = -2, -1
BOARD = torch.int16  # the type of boards: half the bytes to move, and room for MOST agents
MOST = 32767
# Stay, up, down, left, right, in POGEMA's order.
STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


class Maps(NamedTuple):
    """Drawn maps: ground [B, P * P] of WALL and FREE; start and goal [B, N] long.

    order [B, P * P] long lists each component's cells one after another; of a cell, first [B, P * P] is where its
    component begins in that list, size how many cells the component has, rank which of them it is.
    """

    ground: Tensor
    start: Tensor
    goal: Tensor
    order: Tensor
    first: Tensor
    size: Tensor
    rank: Tensor


def draw_maps(teams: int, n_agents: int, side: int, border: int, blocked: float, generator: torch.Generator) -> Maps:
    """Maps whose cells are blocked with probability `blocked`, with a start and a goal for each agent.

    All starts and goals are different cells, and a start and its goal are connected. A draw that has no room for the
    team gets half as many blocked cells, again and again: the team fits an empty map if 2 N <= S^2.
    """
    device = generator.device
    noise = torch.rand(teams, side, side, generator=generator, device=device)
    shuffle = torch.rand(teams, (side + 2 * border) ** 2, generator=generator, device=device)
    lots = torch.rand(shuffle.shape, generator=generator, device=device)
    share = torch.full((teams, 1, 1), float(blocked), device=device)
    while True:
        free = torch.zeros(teams, side + 2 * border, side + 2 * border, dtype=torch.bool, device=device)
        free[:, border : border + side, border : border + side] = noise >= share
        maps, pairs = _place(free, shuffle, lots, n_agents)
        short = pairs < n_agents
        if not bool(short.any()):
            return maps
        halved = torch.where(share < 1 / side**2, 0.0, share / 2)
        share = torch.where(short.view(-1, 1, 1), halved, share)


def _place(free: Tensor, shuffle: Tensor, lots: Tensor, n_agents: int) -> tuple[Maps, Tensor]:
    """Starts and goals, and how many pairs of cells there were to choose from [B]."""
    flat = free.flatten(1)
    label = components(free)
    # Sorted by component, then at random: cells 2 i and 2 i + 1 of a component may be a start and its goal.
    order = (label + shuffle.double()).masked_fill(~flat, torch.inf).argsort(dim=-1, stable=True)
    sorted_label = label.gather(1, order)
    place = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    begins = torch.ones_like(flat)
    begins[:, 1:] = sorted_label[:, 1:] != sorted_label[:, :-1]
    first = torch.where(begins, place, 0).cummax(-1).values
    rank = place - first
    is_free = flat.gather(1, order)
    paired = torch.zeros_like(flat)
    paired[:, :-1] = (rank[:, :-1] % 2 == 0) & ~begins[:, 1:] & is_free[:, :-1]
    at = lots.masked_fill(~paired, -1.0).topk(n_agents, dim=-1).indices
    start, goal = order.gather(1, at), order.gather(1, (at + 1).clamp(max=flat.shape[1] - 1))
    size = torch.zeros_like(order).scatter_add_(1, first, torch.ones_like(order)).gather(1, first)

    def of_cells(sorted_values: Tensor) -> Tensor:
        return torch.empty_like(order).scatter_(1, order, sorted_values)

    ground = torch.where(flat, FREE, WALL).to(BOARD)
    maps = Maps(ground, start, goal, order, of_cells(first), of_cells(size), of_cells(rank))
    return maps, paired.sum(-1)


def components(free: Tensor) -> Tensor:
    """free [B, H, W] bool -> [B, H * W] long: the lowest cell number of each free cell's 4-connected component.

    Neighbours' labels are taken over, handed to the cell that a label names, and followed: label chains halve each
    round, so that rounds grow with the logarithm of a component's size. The rim of the map must be blocked.
    """
    flat, width = free.flatten(1), free.shape[-1]
    number = torch.arange(flat.shape[1], device=free.device).expand_as(flat)
    label = number.clone()
    while True:
        known = label.masked_fill(~flat, flat.shape[1])
        low = known.clone()
        for step in (1, width):
            low[:, step:] = torch.minimum(low[:, step:], known[:, :-step])
            low[:, :-step] = torch.minimum(low[:, :-step], known[:, step:])
        low = torch.where(flat, low, number)
        # A new name of a cell is also one for the cell that gave it its old name.
        following = low.scatter_reduce(1, label, low, "amin")
        following = following.gather(1, following).gather(1, following)
        if torch.equal(following, label):
            return label
        label = following


def another_cell(maps: Maps, cell: Tensor, chance: Tensor) -> Tensor:
    """A random other cell of the same component: cell [B, N] long, chance [B, N] in [0, 1) -> [B, N] long."""
    others = maps.size.gather(1, cell) - 1
    drawn = torch.minimum((chance * others).long(), (others - 1).clamp(min=0))
    drawn = drawn + (drawn >= maps.rank.gather(1, cell))
    return maps.order.gather(1, maps.first.gather(1, cell) + drawn)


def resolve(rule: Rule, board: Tensor, cell: Tensor, target: Tensor, acts: Tensor) -> Tensor:
    """Who moves, [B, N] bool, by POGEMA's collision systems (https://github.com/Cognitive-AI-Systems/pogema).

    `priority`: agents move one after another, lowest slot first, each into a cell that is free by then: who follows
    another needs it to have the lower slot. `block_both`: only into a cell that is empty now and that nobody else
    wants. `soft`: all at once; of several that want a cell the lowest slot gets it, one may follow another, and rings
    turn, but who is blocked blocks those behind. Under none do two agents share a cell or change places.

    Arguments: board [B, P * P]; cell [B, N] where each stands; target [B, N] where it wants to go; acts [B, N] bool:
    is on the board and wants to leave its cell.
    """
    there = board.gather(1, target)  # [B, N]: what is on the target now
    acts = acts & (there != WALL)
    if rule == "block_both":
        wanted = torch.zeros_like(board).scatter_add_(1, target, acts.to(board.dtype)).gather(1, target)
        return acts & (there == FREE) & (wanted == 1)
    n = cell.shape[1]
    slot = torch.arange(n, device=cell.device, dtype=board.dtype).expand_as(cell)
    in_way = there.clamp(min=0).long()
    if rule == "priority":
        runs = acts & (there < slot)
    else:
        swaps = acts & (there >= 0) & acts.gather(1, in_way) & (target.gather(1, in_way) == cell)
        runs = acts & ~swaps
    # Of those that want a cell the lowest slot is the only one that can get it.
    lowest = torch.full_like(board, n).scatter_reduce_(1, target, torch.where(runs, slot, n), "amin").gather(1, target)
    moves = runs & (lowest == slot)
    # It does if who stands there leaves, which depends on the next, and so on: chains are followed by doubling.
    ahead = torch.cat([torch.where(there >= 0, in_way, n), cell.new_full((cell.shape[0], 1), n)], dim=1)
    moves = torch.cat([moves, moves.new_ones(cell.shape[0], 1)], dim=1)
    for _ in range(math.ceil(math.log2(n)) + 1):
        following = moves & moves.gather(1, ahead)
        # On the CPU it is cheaper to ask whether all is said.
        if cell.device.type == "cpu" and torch.equal(following, moves):
            break
        moves, ahead = following, ahead.gather(1, ahead)
    return moves[:, :n]


def around(board: Tensor, cell: Tensor, padded: int, radius: int) -> Tensor:
    """What is in the (2 radius + 1)^2 cells about each cell, row by row: [B, P * P], [B, N] -> [B, N, cells].

    Rows are picked whole out of a view of all the rows that overlap on the board: 7 times as fast as cell by cell
    [measured]. No window leaves the board, whose border is as wide as the radius.
    """
    diameter = 2 * radius + 1
    rows = board.reshape(-1).unfold(0, diameter, 1)
    base = torch.arange(board.shape[0], device=board.device).unsqueeze(-1) * board.shape[1] - radius
    offset = torch.arange(-radius, radius + 1, device=board.device) * padded
    first = (cell + base).unsqueeze(-1) + offset
    return rows.index_select(0, first.view(-1)).view(*cell.shape, diameter**2)


def goals_of_seen(seen: Tensor, place: Tensor, goal: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """For each agent that another sees: that other's number among all B * N, and the cell of its view, [E] each, in
    which to mark the goal of the one that is seen; a goal beyond the view is marked on its edge.

    seen [B, N, cells]: the board around each agent without itself; place, goal [B, N, 2] rows and columns.
    """
    b, n, cells = seen.shape
    at = (seen >= 0).view(-1).nonzero().squeeze(-1)
    row = at.div(cells, rounding_mode="floor")
    first = torch.arange(b, device=seen.device).mul_(n).repeat_interleave(n)  # of each agent's team
    other = first[row] + seen.view(-1)[at]
    way = (goal.view(-1, 2)[other] - place.view(-1, 2)[row]).clamp_(-radius, radius)
    x, y = way.unbind(-1)
    return row, x * (2 * radius + 1) + y + cells // 2
