"""Round agents pushed about a plane, batched: the physics that `native/target` and `native/spread` share.

Symbols: B teams, N agents, R receivers, S senders, C candidates.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from gcoord.envs.native.state import InTensors
from gcoord.spec import Continuous, TeamSpec
from gcoord.trajectory import Observation, Outcome

STEP = 0.1  # seconds a step
DAMPING = 0.25  # share of its speed that an agent loses a step
STIFFNESS = 100.0  # force per unit that two bodies overlap
MARGIN = 1e-3  # units over which contact sets in
FORCE = 5.0  # of a full push; agents weigh 1
# Pairs whose distances are held at once: bounds memory, not results.
PAIRS_AT_ONCE = 2**20
# Share of the ground that may be covered before drawing free places would take long.
_CROWDED = 0.35
_MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


class PointTeam(InTensors):
    """What worlds of pushed points have in common: time, physics, resets by mask, saved states.

    A step adds the forces of pushes and contacts; speed falls by a quarter, gains `0.1 force`, is held to `max_speed`;
    the place changes by `0.1 velocity`, of the new velocity or, where `place_first`, of the old. Two bodies whose
    middles are `apart` less d apart push one another with 100 softplus(d / 0.001) 0.001.

    A world gives `_draw() -> state` (a first state for all teams: `position`, `velocity`, and its own), `_judge(state,
    touching, valid) -> (reward, terminated, metrics)`, which may add to the state, and `_observe()`.

    Arguments:
        spec: of the world. device, seed: of its tensors and its own random stream.
        apart: distance of two agents' middles at contact.
        max_speed: units a second, None for none.
        place_first: whether places change before velocities (mpe2) or after (InforMARL).
    """

    def __init__(
        self,
        spec: TeamSpec,
        device: str | torch.device,
        seed: int,
        apart: float,
        max_speed: float | None,
        place_first: bool,
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self._apart, self._max_speed, self._place_first = apart, max_speed, place_first
        self._moves = torch.tensor(_MOVES, device=self.device, dtype=torch.float32)  # [5, 2]
        self._alive = torch.ones(spec.num_envs, spec.n_agents, dtype=torch.bool, device=self.device)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._state = {}

    def reset(self, seed: int | None = None) -> Observation:
        if seed is not None:
            self._generator.manual_seed(seed)
        state = self._draw()
        state["steps"] = torch.zeros(self.spec.num_envs, dtype=torch.long, device=self.device)
        state["pending"] = state["steps"].bool()
        state["contact"], _ = self._touch(state)
        self._state = state
        return self._observe()

    def step(self, action: Tensor) -> tuple[Observation, Outcome]:
        if not self._state:
            raise RuntimeError("expected reset() before step()")
        state, pending = dict(self._state), self._state["pending"]
        force = FORCE * self._push(action) + state["contact"]
        if self._place_first:
            state["position"] = state["position"] + STEP * state["velocity"]
        velocity = (1 - DAMPING) * state["velocity"] + STEP * force
        if self._max_speed is not None:
            speed = velocity.square().sum(-1, keepdim=True).sqrt()
            velocity = velocity * (self._max_speed / speed.clamp(min=self._max_speed))
        if not self._place_first:
            state["position"] = state["position"] + STEP * velocity
        state["velocity"] = velocity
        state["steps"] = state["steps"] + 1
        # All teams end together as a rule: one question a step is cheaper than drawing places that nobody takes.
        if bool(pending.any()):
            fresh = self._draw()
            fresh["steps"] = torch.zeros_like(state["steps"])
            for name, value in fresh.items():
                state[name] = torch.where(pending.view(-1, *(1,) * (value.ndim - 1)), value, state[name])
        state["contact"], touching = self._touch(state)
        reward, over, scalars = self._judge(state, touching, ~pending)
        terminated = over & ~pending
        truncated = (state["steps"] >= (self.spec.max_steps or 0)) & ~terminated & ~pending
        state["pending"] = terminated | truncated
        self._state = state
        outcome = Outcome(
            reward=torch.where(pending.unsqueeze(-1), 0.0, reward),
            terminated=terminated,
            truncated=truncated,
            valid=~pending,
            metrics=TensorDict(
                {name: torch.where(pending, 0.0, value) for name, value in scalars.items()},
                batch_size=[self.spec.num_envs],
            ),
            batch_size=[self.spec.num_envs],
        )
        return self._observe(), outcome

    def _check(self, state: dict[str, Tensor]) -> None:
        expected = (self.spec.num_envs, self.spec.n_agents)
        if (got := tuple(state["position"].shape[:2])) != expected:
            raise ValueError(f"expected the state of {expected[0]} teams of {expected[1]} (got {got})")

    def _draw(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def _judge(
        self, state: dict[str, Tensor], touching: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def _observe(self) -> Observation:
        raise NotImplementedError

    def _touch(self, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Forces [B, N, 2] of contact, and how many others each agent touches [B, N]."""
        force, touching = contacts(state["position"], state["position"], self._apart)
        return force, touching - 1

    def _push(self, action: Tensor) -> Tensor:
        """[B, N, 2] in [-1, 1], from numbered moves (stay, left, right, down, up), their five strengths, or itself."""
        if self.spec.discrete:
            return self._moves[action]
        space = self.spec.actions[0]
        assert isinstance(space, Continuous)
        strength = action.clamp(space.low[0], space.high[0])
        return strength if space.n == 2 else strength @ self._moves


def along(way: Tensor, spec: TeamSpec, near: float) -> Tensor:
    """The action that pushes each agent along the axis on which it has farther to go, none where that is below `near`.

    way [B, N, 2] -> [B, N] long, or [B, N, 5] or [B, N, 2] where actions are continuous.
    """
    size, axis = way.abs().max(-1)
    positive = way.gather(-1, axis.unsqueeze(-1)).squeeze(-1) > 0
    move = torch.where(size < near, 0, 1 + 2 * axis + positive.long())
    if spec.discrete:
        return move
    if spec.n_actions == len(_MOVES):
        return F.one_hot(move, len(_MOVES)).to(way.dtype)
    return torch.tensor(_MOVES, device=way.device, dtype=way.dtype)[move]


def contacts(receivers: Tensor, senders: Tensor, apart: float) -> tuple[Tensor, Tensor]:
    """Contact forces [B, R, 2] on receivers [B, R, 2], and how many of the senders [B, S, 2] each touches [B, R].

    Who stands where the receiver stands, as it does itself, counts as touched and pushes nowhere.
    """
    (x, y), (u, v) = _planes(receivers), _planes(senders)
    rows = max(1, PAIRS_AT_ONCE // (u.shape[0] * u.shape[1]))
    parts = []
    for i in range(0, x.shape[0], rows):
        dx, dy = x[i : i + rows, None] - u, y[i : i + rows, None] - v  # [R, S, B]
        distance = (dx * dx + dy * dy).sqrt_()
        overlap = F.softplus((apart - distance) / MARGIN)
        strength = overlap.mul_(STIFFNESS * MARGIN).div_(distance.clamp(min=1e-9))
        touching = (distance < apart).sum(1)
        parts.append((dx.mul_(strength).sum(1), dy.mul_(strength).sum(1), touching))
    fx, fy, touching = (part[0] if len(part) == 1 else torch.cat(part) for part in zip(*parts, strict=True))
    return torch.stack([fx.T, fy.T], dim=-1), touching.T


def gap_to_nearest(receivers: Tensor, senders: Tensor) -> Tensor:
    """[B, R]: distance of each receiver [B, R, 2] to the sender [B, S, 2] next to it."""
    (x, y), (u, v) = _planes(receivers), _planes(senders)
    rows = max(1, PAIRS_AT_ONCE // (u.shape[0] * u.shape[1]))
    parts = []
    for i in range(0, x.shape[0], rows):
        dx, dy = x[i : i + rows, None] - u, y[i : i + rows, None] - v
        parts.append(dx.mul_(dx).addcmul_(dy, dy).amin(1).sqrt_())
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).T


def _planes(points: Tensor) -> tuple[Tensor, Tensor]:
    """[B, N, 2] -> two of [N, B]: with the batch innermost, small teams are computed as fast as large ones."""
    x, y = points.permute(2, 1, 0).contiguous()
    return x, y


def draw_apart(n: int, half: float, apart: float, avoid: Tensor, reach: float, generator: torch.Generator) -> Tensor:
    """Places [B, n, 2] in [-half, half]^2, at least `apart` from one another and `reach` from `avoid` [B, S, 2].

    Distributed as when each place in turn is drawn until it is free: of a row of candidates each is taken that is free
    of those taken before it, and the first n are kept. Who is taken follows from the candidates before it alone, so
    repeating the rule for all at once settles them in order, in a few rounds.
    """
    b, device = avoid.shape[0], avoid.device
    spare = n + 4 + n // 4
    drawn = torch.empty(b, 0, 2, device=device)
    while True:
        more = (torch.rand(b, spare, 2, generator=generator, device=device) * 2 - 1) * half
        drawn = torch.cat([drawn, more], dim=1)  # [B, C, 2]
        c = drawn.shape[1]
        free = (gap_to_nearest(drawn, avoid) >= reach) if avoid.shape[1] else drawn.new_ones(b, c, dtype=torch.bool)
        teams = max(1, 16 * PAIRS_AT_ONCE // (c * c))
        taken = torch.cat([_take(*part, apart) for part in zip(drawn.split(teams), free.split(teams), strict=True)])
        rank = taken.cumsum(1)
        if bool((rank[:, -1] >= n).all()):
            # Stable: the taken come first, in their order.
            first = (~taken).to(torch.uint8).sort(dim=1, stable=True).indices[:, :n]
            return drawn.gather(1, first.unsqueeze(-1).expand(-1, -1, 2))


def _take(places: Tensor, free: Tensor, apart: float) -> Tensor:
    """[B, C]: which candidates are taken."""
    delta = places.unsqueeze(2) - places.unsqueeze(1)
    earlier = torch.ones(places.shape[1], places.shape[1], dtype=torch.bool, device=places.device).tril(-1)
    clash = (delta.square().sum(-1) < apart * apart) & earlier  # [B, C, C]
    taken = free
    while True:
        again = free & ~(clash & taken.unsqueeze(1)).any(-1)
        if torch.equal(again, taken):
            return taken
        taken = again


def most_that_fit(half: float, apart: float, n_avoid: int, reach: float) -> int:
    """How many places `draw_apart` finds without long search."""
    ground = 4 * half * half
    open_share = math.exp(-n_avoid * math.pi * reach * reach / ground)
    return int(_CROWDED * ground * open_share / (math.pi * apart * apart / 4))
