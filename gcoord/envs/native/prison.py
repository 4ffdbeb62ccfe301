"""Prisoners walk from wall to wall, each in a cell of its own (PettingZoo's butterfly/prison, gone since 1.18)."""

from __future__ import annotations

from typing import Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from gcoord.envs.cards import Card
from gcoord.envs.native.state import InTensors
from gcoord.spec import Continuous, Discrete, TeamSpec
from gcoord.trajectory import Observation, Outcome

CARDS = {
    "native/prison": Card(
        sizes=(2, 8, 16),
        knows="how far one stands from the left wall of one's cell, in pixels (or an image of the cell)",
        arena="a cell for each prisoner, two to a floor; density=arena keeps 8 cells, which prisoners then share",
        random=0.326,
        scripted=6.875,
        note="The script's figure is the highest there is. Cells are 300 px wide less the prisoner's picture, 26 to 59."
        " Which wall was touched last is not seen: a policy needs memory, or the image, which shows where one looks.",
    )
}

_AGENTS = 8  # four floors
_CELL = 300.0  # px between a cell's walls
_PACE = 24.0  # px a step at most
_START, _NOISE = 150, 20  # px from the left wall, more or less
# Width and height of the original's eight prisoners, who take turns; a cell is narrower by its prisoner's width.
_BODIES = ((26, 40), (42, 40), (46, 46), (45, 48), (46, 32), (44, 54), (48, 48), (59, 53))
_HEIGHT = 100  # px of the image


class Prison(InTensors):
    """Prisoners earn 1 each time they touch the wall they did not touch first, coming from the one they did.

    https://github.com/Farama-Foundation/PettingZoo/tree/1.17.0/pettingzoo/butterfly/prison. A wall is touched by a step
    that would end beyond it. Own [distance from the left wall], 0 to 300 px less the prisoner's width; or an image of
    the cell, [1, 100, 300] bytes, with the prisoner as a grey block, bright on the side it last walked to (bright in
    the middle from the second step of rest on). Prisoners never meet; position [x, y] in the house, px, y downwards.

    Arguments:
        n_agents: prisoners; None: the world's 8, on four floors.
        num_envs: houses (B). device: where all lives and happens. seed: of the world's own random stream.
        density: `fixed`: floors of two cells are added as the team grows; `arena`: the house keeps 4 floors, and
            prisoners share cells without noticing, for only their positions tell.
        continuous: False or "auto": left, stay, right, by 24 px; True: a displacement of at most 24 px.
        vector_observation: False: images.
        max_cycles: steps of an episode.
        synchronized_start: all start at 150 px, else up to 20 px to either side.
        identical_aliens: all of a house have one body, drawn at each reset; random_aliens: each draws its own; else
            the eight bodies take turns.

    Metrics: `round_trips`, an episode's points per prisoner; `success`, the share of prisoners with a point by its end.
    Departs from the original in the image, whose pictures are not ours.
    """

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        density: Literal["fixed", "arena"] = "fixed",
        continuous: bool | Literal["auto"] = "auto",
        vector_observation: bool = True,
        max_cycles: int = 150,
        synchronized_start: bool = False,
        identical_aliens: bool = False,
        random_aliens: bool = False,
    ) -> None:
        if continuous not in ("auto", True, False):
            raise ValueError(f"expected continuous to be auto, true or false (got {continuous!r})")
        if density not in ("fixed", "arena"):
            raise ValueError(f"expected density to be fixed or arena (got {density!r})")
        if isinstance(max_cycles, bool) or not isinstance(max_cycles, int) or max_cycles < 1:
            raise ValueError(f"expected max_cycles to be a positive whole number (got {max_cycles!r})")
        if identical_aliens and random_aliens:
            raise ValueError("expected identical_aliens or random_aliens (got both)")
        self.device = torch.device(device)
        self.spec = TeamSpec(
            num_envs=num_envs,
            n_agents=_AGENTS if n_agents is None else n_agents,
            own=(1,) if vector_observation else (1, _HEIGHT, int(_CELL)),
            actions=(Continuous((-_PACE,), (_PACE,)) if continuous is True else Discrete(3),),
            kinds=("prisoner",),
            position_dim=2,
            max_steps=max_cycles,
            metrics={"round_trips": "sum", "success": "last"},
            world="native/prison",
            density=density,
        )
        n = self.spec.n_agents
        self._images, self._noise = not vector_observation, 0 if synchronized_start else _NOISE
        self._max_cycles = max_cycles
        self._identical, self._random = identical_aliens, random_aliens
        self._bodies = torch.tensor(_BODIES, dtype=torch.float32, device=self.device)
        cell = torch.arange(n, device=self.device) % (n if density == "fixed" else _AGENTS)
        left, floor = 50.0 + 350.0 * (cell % 2), 150.0 * (cell // 2 + 1)
        self._corner = torch.stack([left, floor], -1)  # [N, 2]
        self._kind = torch.zeros(num_envs, n, dtype=torch.long, device=self.device)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._state = {}

    def reset(self, seed: int | None = None) -> Observation:
        if seed is not None:
            self._generator.manual_seed(seed)
        self._state = self._draw()
        return self._observe()

    def step(self, action: Tensor) -> tuple[Observation, Outcome]:
        if not self._state:
            raise RuntimeError("expected reset() before step()")
        state, spec = self._state, self.spec
        pending = state["pending"]
        move = (action - 1) * _PACE if spec.discrete else action.squeeze(-1).clamp(-_PACE, _PACE)
        x, room = state["x"] + move, state["room"]
        touched = (x > room).long() - (x < 0).long()  # [B, N]: -1 the left wall, 1 the right one, 0 none
        first = torch.where(state["first"] == 0, touched, state["first"])
        earned = (touched != 0) & (first == -touched) & (state["last"] == -touched) & ~pending.unsqueeze(-1)
        points = state["points"] + earned
        steps = state["steps"] + 1
        truncated = (steps >= self._max_cycles) & ~pending
        looks = torch.where(state["rested"] == 0, state["looks"], 0)
        self._state = {
            **state,
            "x": torch.minimum(x.clamp(min=0), room),
            "first": first,
            "last": torch.where(touched != 0, touched, state["last"]),
            "points": points,
            "looks": torch.where(move != 0, move.sign().long(), looks),
            "rested": torch.where(move != 0, 0, state["rested"] + 1),
            "steps": steps,
            "pending": truncated,
        }
        # On the CPU it is cheaper to ask; elsewhere drawing for nothing is cheaper than waiting.
        if self.device.type != "cpu" or bool(pending.any()):
            for name, fresh in self._draw().items():
                old = self._state[name]
                self._state[name] = torch.where(pending.view(-1, *(1,) * (old.ndim - 1)), fresh, old)
        reward = earned.to(x)
        metrics = {
            "round_trips": reward.mean(-1),
            "success": torch.where(pending, 0.0, (points > 0).to(x).mean(-1)),
        }
        outcome = Outcome(
            reward=reward,
            terminated=torch.zeros_like(pending),
            truncated=truncated,
            valid=~pending,
            metrics=TensorDict(metrics, batch_size=[spec.num_envs]),
            batch_size=[spec.num_envs],
        )
        return self._observe(), outcome

    def _check(self, state: dict[str, Tensor]) -> None:
        expected = (self.spec.num_envs, self.spec.n_agents)
        if (got := tuple(state["x"].shape)) != expected:
            raise ValueError(f"expected the state of {expected[0]} teams of {expected[1]} (got {got})")

    def scripted(self, observation: Observation) -> Tensor:
        """To the nearer wall first, then to the one not touched last: the most points that can be had.

        It remembers the last wall, which no observation holds, from the world's own state.
        """
        state = self._state
        nearer = torch.where(2 * state["x"] < state["room"], -1, 1)
        way = torch.where(state["last"] == 0, nearer, -state["last"])
        return way + 1 if self.spec.discrete else (way * _PACE).unsqueeze(-1)

    def _draw(self) -> dict[str, Tensor]:
        """A first state for every team."""
        b, n = self.spec.num_envs, self.spec.n_agents
        at, who = torch.rand(2, b, n, generator=self._generator, device=self.device)
        if self._identical:
            who = who[:, :1].expand(b, n)
        body = (who * len(_BODIES)).long()
        if not (self._identical or self._random):
            body = (torch.arange(n, device=self.device) % len(_BODIES)).expand(b, n)
        none = torch.zeros(b, n, dtype=torch.long, device=self.device)
        return {
            "x": _START - self._noise + (at * (2 * self._noise + 1)).floor(),
            "body": body.clone(),
            "room": _CELL - self._bodies[body, 0],
            "first": none,
            "last": none.clone(),
            "points": none.clone(),
            "looks": none.clone(),
            "rested": none.clone(),
            "steps": torch.zeros(b, dtype=torch.long, device=self.device),
            "pending": torch.zeros(b, dtype=torch.bool, device=self.device),
        }

    def _observe(self) -> Observation:
        x = self._state["x"]
        place = torch.stack([x, torch.zeros_like(x)], -1) + self._corner
        return Observation(
            own=self._image() if self._images else x.unsqueeze(-1).clone(),
            alive=torch.ones_like(self._kind, dtype=torch.bool),
            kind=self._kind,
            position=place,
            batch_size=[self.spec.num_envs],
        )

    def _image(self) -> Tensor:
        """Bytes [B, N, 1, 100, 300]: a block where the prisoner stands, a third of it bright."""
        state = self._state
        width, height = self._bodies[state["body"]].unsqueeze(-2).unbind(-1)  # [B, N, 1]
        column = torch.arange(_CELL, device=self.device) - state["x"].round().unsqueeze(-1)  # [B, N, 300]
        across = torch.where((column >= 0) & (column < width), 128, 0)
        bright = (column - width / 2 - state["looks"].unsqueeze(-1) * width / 3).abs() < width / 6
        across = torch.where((across > 0) & bright, 255, across).to(torch.uint8)
        down = torch.arange(_HEIGHT, device=self.device) >= _HEIGHT - height  # [B, N, 100]
        return (across.unsqueeze(-2) * down.unsqueeze(-1)).unsqueeze(-3)
