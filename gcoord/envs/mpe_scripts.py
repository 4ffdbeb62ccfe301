"""Hand-written policies for MPE's worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gcoord.spec import Discrete

if TYPE_CHECKING:
    from gcoord.spec import TeamSpec
    from gcoord.trajectory import Observation

# Speed falls by a quarter each 0.1 s: an agent glides on for 0.4 of its velocity.
GLIDE = 0.4


def steer(way: Tensor, velocity: Tensor | float = 0.0, still: float = 0.03) -> Tensor:
    """Numbers of moves [*]: along the axis with the larger gap of way [*, 2], where gap less the way it glides counts;
    none where both gaps are below `still`."""
    way = way - GLIDE * velocity
    size, axis = way.abs().max(-1)
    positive = way.gather(-1, axis.unsqueeze(-1)).squeeze(-1) > 0
    return torch.where(size < still, 0, 1 + 2 * axis + positive.long())


def actions(spec: TeamSpec, kind: Tensor, move: Tensor, word: Tensor | None = None) -> Tensor:
    """The team's action from each one's move [B, N] of 5 and word [B, N]: who does not move says, who is silent moves.

    Numbered actions are move + 5 word, boxes a one-hot of the move, then one of the word.
    """
    word = torch.zeros_like(move) if word is None else word
    number = torch.zeros_like(move)
    action = torch.zeros(*move.shape, spec.n_actions, device=move.device)
    for k, space in enumerate(spec.actions):
        mine = kind == k
        moves = space.n >= 5
        if isinstance(space, Discrete):
            number = torch.where(mine, move + 5 * word * (space.n > 5) if moves else word, number)
            continue
        start = 5 if moves else 0
        if moves:
            action[..., :5] += one_hot(move, 5) * mine.unsqueeze(-1)
        if words := space.n - start:
            action[..., start : space.n] += one_hot(word.clamp(max=words - 1), words) * mine.unsqueeze(-1)
    return number if spec.discrete else action


def matched(distance: Tensor) -> Tensor:
    """[B, N] columns of distance [B, N, M]: the nearest pair is matched, then the nearest of those left; infinite ones
    last, and rows that find none get column 0."""
    distance = distance.clone()
    B, N, M = distance.shape
    team = torch.arange(B, device=distance.device)
    goal = torch.zeros(B, N, dtype=torch.long, device=distance.device)
    for _ in range(min(N, M)):
        nearest = distance.flatten(1).argmin(-1)
        i, m = nearest // M, nearest % M
        goal[team, i] = m
        distance[team, i] = torch.inf
        distance[team, :, m] = torch.inf
    return goal


def share_out(spec: TeamSpec, observation: Observation) -> Tensor:
    """The nearest pair of agent and landmark is matched, then the nearest of those left; each goes to its own.

    It knows all positions.
    """
    agents, places = observation.position, observation.entity_position
    assert agents is not None and places is not None
    gap = places.unsqueeze(1) - agents.unsqueeze(2)  # [B, N, M, 2]
    goal = matched(gap.norm(dim=-1).masked_fill(~observation.alive.unsqueeze(-1), torch.inf))
    way = gap.gather(2, goal[..., None, None].expand(-1, -1, 1, 2)).squeeze(2)
    return actions(spec, observation.kind, steer(way, observation.own))


def to_the_landmark(spec: TeamSpec, observation: Observation) -> Tensor:
    """Goes there."""
    own = observation.own
    return actions(spec, observation.kind, steer(own[..., 2:4], own[..., :2]))


def push(spec: TeamSpec, observation: Observation) -> Tensor:
    """The agent goes to its goal; the adversary to the landmark to which the agent is nearest."""
    own = observation.own
    landmarks, other = own[..., 2:6].unflatten(-1, (2, 2)), own[..., 6:8]  # as the adversary has them
    nearest = (landmarks - other.unsqueeze(-2)).norm(dim=-1).argmin(-1)
    guess = landmarks.gather(-2, nearest[..., None, None].expand(*nearest.shape, 1, 2)).squeeze(-2)
    way = torch.where((observation.kind == 0).unsqueeze(-1), guess, own[..., 2:4])
    return actions(spec, observation.kind, steer(way, own[..., :2]))


def crypto(spec: TeamSpec, observation: Observation) -> Tensor:
    """Alice says whether secret and key differ, Bob undoes it by the key, and Eve takes the word for the secret."""
    own, kind = observation.own, observation.kind
    first, second = own[..., :4].argmax(-1), own[..., 4:8].argmax(-1)
    # Alice: secret and key; Bob: key and word; Eve: the word alone.
    word = torch.where(kind == 0, first, (first + second) % 2)
    return actions(spec, kind, torch.zeros_like(kind), word)


def reference(spec: TeamSpec, observation: Observation) -> Tensor:
    """Each says the number of the other's goal, and goes to the landmark whose number it was told last."""
    own = observation.own
    velocity, landmarks, goal, heard = own.split([2, 6, 3, 10], -1)
    told = heard[..., :3].argmax(-1)
    way = landmarks.unflatten(-1, (3, 2)).gather(-2, told[..., None, None].expand(*told.shape, 1, 2)).squeeze(-2)
    way = torch.where((heard > 0).any(-1, keepdim=True), way, 0.0)
    return actions(spec, observation.kind, steer(way, velocity), goal.argmax(-1))


def speaker_listener(spec: TeamSpec, observation: Observation) -> Tensor:
    """The speaker says the number of the goal; the listener goes to the landmark whose number it was told last."""
    own = observation.own
    velocity, landmarks, heard = own[..., :11].split([2, 6, 3], -1)
    told = heard.argmax(-1)
    way = landmarks.unflatten(-1, (3, 2)).gather(-2, told[..., None, None].expand(*told.shape, 1, 2)).squeeze(-2)
    way = torch.where((heard > 0).any(-1, keepdim=True), way, 0.0)
    return actions(spec, observation.kind, steer(way, velocity), own[..., :3].argmax(-1))


def _heard(observation: Observation, which: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ways [B, N, M, 2] to the entities whose feature `which` is 1, distances (inf: not heard) and all features."""
    agents, places, features = observation.position, observation.entity_position, observation.entities
    assert agents is not None and places is not None and features is not None and observation.hears is not None
    way = places.unsqueeze(1) - agents.unsqueeze(2)
    known = observation.hears[..., agents.shape[1] :] & (features[..., which] > 0).unsqueeze(1)
    return way, way.norm(dim=-1).masked_fill(~known, torch.inf), features


def _nearest(observation: Observation, which: int, ahead: slice | None = None) -> tuple[Tensor, Tensor]:
    """Way [B, N, 2] to the nearest such entity, to where it glides if `ahead` holds its velocity, and its distance."""
    way, distance, features = _heard(observation, which)
    if ahead is not None:
        way = way + GLIDE * features[:, None, :, ahead]
    near, column = distance.min(-1)
    way = way.gather(2, column[..., None, None].expand(-1, -1, 1, 2)).squeeze(2)
    return torch.where(near.isfinite().unsqueeze(-1), way, 0.0), near


def _away(observation: Observation, which: int, half: float) -> Tensor:
    """[B, N, 2]: away from such entities, the more the nearer, and from the borders of a square of half side `half`."""
    way, distance, _ = _heard(observation, which)
    push = -torch.where(distance.isfinite().unsqueeze(-1), way / distance.clamp(min=1e-3).unsqueeze(-1) ** 3, 0.0)
    position = observation.position
    assert position is not None
    beyond = (position.abs() / half - 0.7).clamp(min=0) * position.sign()
    return push.sum(2) - 30.0 * beyond


def tag(half: float, spec: TeamSpec, observation: Observation) -> Tensor:
    """Hunters go where the nearest prey will be; prey goes away from all hunters and from the borders."""
    hunt, _ = _nearest(observation, 2, slice(3, 5))
    way = torch.where((observation.kind == 0).unsqueeze(-1), hunt, _away(observation, 1, half))
    return actions(spec, observation.kind, steer(way))


def world_comm(half: float, spec: TeamSpec, observation: Observation) -> Tensor:
    """Hunters go where the nearest prey will be that they see, or to the middle; prey goes to the nearest food, or away
    from hunters that are near, and from the borders."""
    hunt, near = _nearest(observation, 4, slice(5, 7))
    position = observation.position
    assert position is not None
    hunt = torch.where(near.isfinite().unsqueeze(-1), hunt, -position)
    food, _ = _nearest(observation, 1)
    _, threat = _nearest(observation, 3)
    flee = (threat < 0.5) | (position.abs() > 0.9 * half).any(-1)
    prey = torch.where(flee.unsqueeze(-1), _away(observation, 3, half), food - GLIDE * observation.own[..., :2])
    way = torch.where((observation.kind < 2).unsqueeze(-1), hunt, prey)
    return actions(spec, observation.kind, steer(way))


def adversary(spec: TeamSpec, observation: Observation) -> Tensor:
    """The agents stand on a landmark each, so that none tells which is the goal; the adversary stands amid them all.

    Nobody knows how fast it is: near its place each lets itself glide.
    """
    way, distance, features = _heard(observation, 0)
    landmarks = features[..., 0].sum(-1).long()[0]
    goal = matched(distance[:, 1:, :landmarks])
    stand = way[:, 1:].gather(2, goal[..., None, None].expand(-1, -1, 1, 2)).squeeze(2)
    amid = way[:, :1, :landmarks].mean(2)
    return actions(spec, observation.kind, steer(torch.cat([amid, stand], 1), still=0.2))
