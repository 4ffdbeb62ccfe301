"""Multi-agent path finding on a grid: PRIMAL's setting after POGEMA's rules, any number of agents."""

from __future__ import annotations

import math
from typing import Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from gcoord.envs.cards import Card
from gcoord.envs.native.grid import (
    BOARD,
    FREE,
    MOST,
    STEPS,
    WALL,
    Maps,
    Rule,
    another_cell,
    around,
    draw_maps,
    goals_of_seen,
    resolve,
)
from gcoord.envs.native.paths import Planner
from gcoord.envs.native.pictures import Picture, cells
from gcoord.envs.native.state import InTensors
from gcoord.spec import Discrete, Reduction, TeamSpec
from gcoord.trajectory import Observation, Outcome

_AGENTS, _SIDE, _STEPS = 8, 12, 64  # of the world as it is; fixed density keeps agents per cell
_MOVE, _IDLE, _BUMP, _DONE = -0.3, -0.5, -2.0, 20.0  # PRIMAL's rewards

OnTarget = Literal["nothing", "finish", "restart"]


class Mapf(InTensors):
    """Agents on a grid with blocked cells each find their way to a goal of their own without sharing a cell.

    PRIMAL, https://arxiv.org/abs/1809.03531, by the rules of POGEMA, https://github.com/Cognitive-AI-Systems/pogema.
    Five actions: stay, up, down, left, right. own [7, 11, 11]: the cells around, oneself in the middle, with channels
    blocked, other agents, own goal, goals of the agents in view (on the edge where they lie beyond), then the unit
    vector to the own goal (down, right) and its distance d as d / (d + 5), each the same in all cells; `view="vector"`
    gives the same numbers once: the four channels row by row, then those three. position: row and column.

    Arguments:
        n_agents: team size; None is 8.
        num_envs: teams (B).
        device: where everything lives and happens.
        seed: of the world's own random stream.
        density: `fixed`: the map's side grows with sqrt(n / 8) from 12; `arena`: it is 12 for every team.
        continuous: the actions are numbered: False or "auto".
        on_target: POGEMA's: `nothing` (who is there may stay and leave; the episode ends when all are there at once),
            `finish` (who arrives is gone), or `restart` (who arrives gets a new goal, for ever).
        collisions: POGEMA's: `priority` (its default), `block_both` or `soft`, see `grid.resolve`.
        blocked: probability of a cell to be blocked.
        reward: `primal`: -0.3 for a move, -2 for one that was refused, -0.5 for staying anywhere but on the goal, and
            +20 to each when all are there (finish, restart: to each that arrives). PRIMAL's penalty for blocking
            others while on the goal is left out. `pogema`: 1 in place of the +20 and nothing else.
        guide: earned for each row or column that a move brings one nearer to the goal, and taken back for each away
            from it, besides `reward` (0: not at all). It sums to the same for every way, and so changes no ranking of
            policies, but without it learning from rewards alone is slow; PRIMAL added imitation of a planner instead.
        view: `image` or `vector`.
        available: whether moves into blocked cells are illegal (they are refused anyway).
        radius: cells seen in each direction.
        side: of the map in cells; None: by `density`.
        max_steps: steps until truncation; None: 16 side / 3, which is 64 on a side of 12.

    Metrics: `success`, the share of agents on their goal (finish: that have arrived; restart: that have arrived at
    least once), which POGEMA calls ISR; `csr`, 1 if all are; `makespan`, the steps so far, at an episode's end those
    it took; `throughput`, arrivals per step, summed over the team.
    Raises ValueError for arguments that do not fit, such as a team that needs more than half of the map's cells.
    """

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        density: Literal["fixed", "arena"] = "fixed",
        continuous: bool | Literal["auto"] = "auto",
        on_target: OnTarget = "nothing",
        collisions: Rule = "priority",
        blocked: float = 0.2,
        reward: Literal["primal", "pogema"] = "primal",
        guide: float = 1.0,
        view: Literal["image", "vector"] = "image",
        available: bool = False,
        radius: int = 5,
        side: int | None = None,
        max_steps: int | None = None,
    ) -> None:
        n = _AGENTS if n_agents is None else n_agents
        if continuous is True:
            raise ValueError("expected continuous=false or auto in native/mapf, whose actions are discrete (got true)")
        for name, value, known in (
            ("density", density, ("fixed", "arena")),
            ("on_target", on_target, ("nothing", "finish", "restart")),
            ("collisions", collisions, ("priority", "block_both", "soft")),
            ("reward", reward, ("primal", "pogema")),
            ("view", view, ("image", "vector")),
        ):
            if value not in known:
                raise ValueError(f"expected {name} to be {', '.join(known[:-1])} or {known[-1]} (got {value!r})")
        if not 0.0 <= blocked < 1.0:
            raise ValueError(f"expected blocked to be a share below 1 (got {blocked!r})")
        if radius < 1:
            raise ValueError(f"expected radius to be at least 1 cell (got {radius!r})")
        if side is None:
            side = max(2, round(_SIDE * math.sqrt(n / _AGENTS))) if density == "fixed" else _SIDE
        if n > MOST:
            raise ValueError(f"expected at most {MOST} agents in native/mapf (got {n})")
        if side < 2 or 2 * n > side**2:
            raise ValueError(
                f"expected at most {max(0, side**2 // 2)} agents on {side} x {side} cells, a start and a goal for each "
                f"(got {n}); use density=fixed or a larger side"
            )
        max_steps = max(1, round(_STEPS * side / _SIDE)) if max_steps is None else max_steps
        self.device = torch.device(device)
        diameter = 2 * radius + 1
        metrics: dict[str, Reduction] = {"success": "last", "csr": "last", "makespan": "last", "throughput": "mean"}
        self.spec = TeamSpec(
            num_envs=num_envs,
            n_agents=n,
            own=(7, diameter, diameter) if view == "image" else (4 * diameter**2 + 3,),
            actions=(Discrete(len(STEPS)),),
            position_dim=2,
            available=available,
            max_steps=max_steps,
            metrics=metrics,
            world="native/mapf",
            density=density,
        )
        self._side, self._radius, self._padded, self._blocked = side, radius, side + 2 * radius, blocked
        self._on_target, self._rule, self._reward, self._max_steps = on_target, collisions, reward, max_steps
        self._guide = guide
        self._steps = torch.tensor([a * self._padded + b for a, b in STEPS], device=self.device)
        self._kind = torch.zeros(num_envs, n, dtype=torch.long, device=self.device)
        self._slot = torch.arange(n, device=self.device, dtype=BOARD).expand(num_envs, -1)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._planner = Planner(self._padded, collisions)
        self._state = {}

    def reset(self, seed: int | None = None) -> Observation:
        if seed is not None:
            self._generator.manual_seed(seed)
        self._state = self._draw(self.spec.num_envs)
        return self._observe()

    def step(self, action: Tensor) -> tuple[Observation, Outcome]:
        """action [B, N] long."""
        if not self._state:
            raise RuntimeError("expected reset() before step()")
        state, spec = self._state, self.spec
        pending, alive, cell, goal = state["pending"], state["alive"], state["cell"], state["goal"]
        counts = alive & ~pending.unsqueeze(-1)  # [B, N]: whose step this is
        acts = counts & (action != 0)
        target = cell + torch.where(acts, self._steps[action], 0)
        moves = resolve(self._rule, state["board"], cell, target, acts)
        now = torch.where(moves, target, cell)
        there = counts & (now == goal)
        arrives = there & moves if self._on_target == "nothing" else there
        gone = there if self._on_target == "finish" else torch.zeros_like(there)
        reached = there if self._on_target == "nothing" else state["reached"] | there
        self._put(state["board"], cell, alive, FREE)
        self._put(state["board"], now, alive & ~gone, self._slot)
        steps = state["steps"] + 1
        all_there = reached.all(-1) & ~pending
        terminated = all_there & (self._on_target != "restart")
        truncated = (steps >= self._max_steps) & ~terminated & ~pending
        reward = self._rewards(counts, acts, moves, there, arrives, all_there)
        if self._guide:
            gained = self._way(cell, goal).abs().sum(-1) - self._way(now, goal).abs().sum(-1)
            reward = reward + self._guide * gained
        metrics = {
            "success": reached.float().mean(-1),
            "csr": all_there.float(),
            "makespan": steps.float(),
            "throughput": arrives.float().sum(-1),
        }
        self._state = {
            **state,
            "cell": now,
            "alive": alive & ~gone,
            "reached": reached,
            "steps": steps,
            "pending": terminated | truncated,
        }
        if self._on_target == "restart":
            chance = torch.rand(goal.shape, generator=self._generator, device=self.device)
            self._state["goal"] = torch.where(there, another_cell(self._maps, now, chance), goal)
        self._reset(pending)
        outcome = Outcome(
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=~pending,
            metrics=TensorDict(metrics, batch_size=[spec.num_envs]),
            batch_size=[spec.num_envs],
        )
        return self._observe(), outcome

    def picture(self) -> Picture:
        """The first team's map: blocked cells, and the goals of those who live."""
        state, side = self._state, self._side
        inner = slice(self._radius, self._radius + side)
        blocked = (state["board"][0] == WALL).view(self._padded, -1)[inner, inner]
        goals = self._place(state["goal"])[0][state["alive"][0]]
        return cells(blocked.cpu().numpy(), goals.cpu().numpy())

    def _check(self, state: dict[str, Tensor]) -> None:
        expected = (self.spec.num_envs, self.spec.n_agents, self._padded**2)
        got = (*state["alive"].shape, state["board"].shape[1])
        if got != expected:
            raise ValueError(
                f"expected the state of {expected[:2]} teams and agents on {expected[2]} cells (got {got})"
            )

    def scripted(self, observation: Observation) -> Tensor:
        """Everyone along a shortest way that it looks up on the whole map, giving way by `paths.Planner`'s rules; who
        is in view and where is taken from the world as it stands, not from `observation`."""
        state = self._state
        return self._planner.act(state["board"], state["cell"], state["goal"], state["alive"], state["steps"])

    @property
    def _maps(self) -> Maps:
        state = self._state
        lists = (state[name] for name in ("order", "first", "size", "rank"))
        return Maps(state["board"], state["cell"], state["goal"], *lists)

    def _rewards(
        self, counts: Tensor, acts: Tensor, moves: Tensor, there: Tensor, arrives: Tensor, all_there: Tensor
    ) -> Tensor:
        """[B, N] float, 0 for the dead and on reset rows."""
        paid = counts & all_there.unsqueeze(-1) if self._on_target == "nothing" else arrives
        if self._reward == "pogema":
            return paid.float()
        cost = torch.where(acts, torch.where(moves, _MOVE, _BUMP), torch.where(there, 0.0, _IDLE))
        return torch.where(counts, cost + _DONE * paid, 0.0)

    def _put(self, board: Tensor, cell: Tensor, who: Tensor, what: Tensor | int) -> None:
        """Writes on the cells of `who`; what the others would write lands on the first cell, a blocked one."""
        what = torch.where(who, what, WALL).to(board.dtype)
        board.scatter_(1, torch.where(who, cell, 0), what)

    def _reset(self, pending: Tensor) -> None:
        """A first state for the teams that finished with the step before."""
        rows = pending.nonzero().squeeze(-1)
        if rows.numel():
            for name, fresh in self._draw(rows.numel()).items():
                self._state[name] = self._state[name].index_copy(0, rows, fresh)

    def _draw(self, teams: int) -> dict[str, Tensor]:
        """A first state for some teams."""
        n, device = self.spec.n_agents, self.device
        maps = draw_maps(teams, n, self._side, self._radius, self._blocked, self._generator)
        state = {
            "board": maps.ground.scatter(1, maps.start, self._slot[:1].expand(teams, -1)),
            "cell": maps.start,
            "goal": maps.goal,
            "alive": torch.ones(teams, n, dtype=torch.bool, device=device),
            "reached": torch.zeros(teams, n, dtype=torch.bool, device=device),
            "steps": torch.zeros(teams, dtype=torch.long, device=device),
            "pending": torch.zeros(teams, dtype=torch.bool, device=device),
        }
        if self._on_target == "restart":
            state |= {"order": maps.order, "first": maps.first, "size": maps.size, "rank": maps.rank}
        return state

    def _place(self, cell: Tensor) -> Tensor:
        """Rows and columns of cells, the border not counted: [B, N] -> [B, N, 2] long."""
        return torch.stack([cell // self._padded, cell % self._padded], dim=-1) - self._radius

    def _way(self, cell: Tensor, goal: Tensor) -> Tensor:
        """Rows and columns from cells to goals, [B, N, 2] long."""
        return self._place(goal) - self._place(cell)

    def _observe(self) -> Observation:
        state, (b, n) = self._state, self._kind.shape
        seen = around(state["board"], state["cell"], self._padded, self._radius)
        cells, middle = seen.shape[-1], seen.shape[-1] // 2
        # Oneself is no other.
        seen[..., middle] = FREE
        place, goal = self._place(state["cell"]), self._place(state["goal"])
        way = goal - place  # [B, N, 2]
        distance = torch.linalg.vector_norm(way.float(), dim=-1, keepdim=True)
        toward = torch.cat([way / distance.clamp(min=1), distance / (distance + 5)], dim=-1)
        image = len(self.spec.own) == 3
        own = torch.empty(b, n, (7 if image else 4) * cells + (0 if image else 3), device=self.device)
        planes = own[..., : 4 * cells].unflatten(-1, (4, cells))
        if image:
            own[..., 4 * cells :].unflatten(-1, (3, cells)).copy_(toward.unsqueeze(-1))
        else:
            own[..., 4 * cells :] = toward
        torch.eq(seen, WALL, out=planes[:, :, 0])
        torch.ge(seen, 0, out=planes[:, :, 1])
        planes[:, :, 2:] = 0.0
        in_view = (way.abs() <= self._radius).all(-1)
        at = way.clamp(-self._radius, self._radius)
        at = at[..., 0] * (2 * self._radius + 1) + at[..., 1] + middle
        planes[:, :, 2].scatter_(-1, at.unsqueeze(-1), in_view.unsqueeze(-1).to(own))
        row, column = goals_of_seen(seen, place, goal, self._radius)
        own.view(-1).index_fill_(0, row * own.shape[-1] + column + 3 * cells, 1.0)
        return Observation(
            own=own.view(b, n, *self.spec.own),
            alive=state["alive"],
            kind=self._kind,
            position=place.float(),
            available=self._available() if self.spec.available else None,
            batch_size=[b],
        )

    def _available(self) -> Tensor:
        """Moves onto cells that are not blocked, [B, N, 5]."""
        state = self._state
        b, n = state["cell"].shape
        ahead = (state["cell"].unsqueeze(-1) + self._steps).view(b, -1)
        return (state["board"].gather(1, ahead) != WALL).view(b, n, -1) & state["alive"].unsqueeze(-1)


CARDS = {
    "native/mapf": Card(
        sizes=(4, 8, 32),
        knows="the 11 x 11 cells about it (blocked, agents, own goal, goals of those in view), way to its goal",
        arena="side 12 at 8 agents, growing with sqrt(n)",
        random=-49.0,
        scripted=23.6,
        note="Success: random 0.01, the planner 0.99 at 8 agents, 0.99 at 32 and 0.72 at 1,000, where crowds stick. "
        "Dies with on_target=finish alone, where who arrives is gone.",
    )
}
