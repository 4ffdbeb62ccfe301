"""A toy that needs communication: half of the team knows where to meet, the other half must hear it."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from gcoord.envs.cards import Card
from gcoord.envs.native.state import InTensors
from gcoord.spec import Action, Continuous, Discrete, Reward, TeamSpec
from gcoord.trajectory import Observation, Outcome

_SPEED = 0.2  # units a step along each axis
_NEAR = 0.15  # units from the meeting point that count as there
_RETURN = 0.2  # probability a step that a dead agent comes back, where it may
_MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_MOVES_OF = (5, 9)  # per kind: the second also goes diagonally

CARDS = {
    "native/meet": Card(
        sizes=(2, 4, 16),
        knows="its position, and with probability one half where to meet",
        random=-0.05,
        scripted=0.87,
        note="the others must be heard; posts as entities, deaths, two kinds and boxes of actions by option",
    ),
}


class Meet(InTensors):
    """Agents in the square [-1, 1]^2 meet at a point that each knows with probability one half, at least one always.

    own [position 2, whether it knows 1, the meeting point 2 or zeros]. An agent earns the distance it came closer in
    the step; an episode ends when all living agents are within 0.15 of the point, or when all are dead. With posts
    (`entities`) no agent knows: one of the posts is lit and stands at the point, the others mislead, some are absent;
    entity features [lit 1, position 2]. Metric `success`: share of living agents that are there, at the last step.

    Arguments:
        n_agents: team size; None is 4.
        num_envs: teams (B).
        device: where everything lives and happens; nothing is asked of it in between, save whether any team ended.
        seed: of the world's own random stream.
        continuous: False or "auto" (numbered moves: stay, four directions, and diagonals for the second kind), True
            (a displacement), or "mixed" (the first kind numbered, the second continuous).
        kinds: 1, or 2: every other agent is a runner, who also goes diagonally.
        reward: "own", or "team": the mean of what the living earn.
        entities: posts (M).
        deaths: probability a step that a living agent dies.
        rejoins: whether the dead may come back, with probability 0.2 a step.
        available: whether moves out of the square are illegal (they are without effect anyway).
        max_steps: steps until truncation.
    """

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        continuous: bool | str = "auto",
        kinds: int = 1,
        reward: Reward = "own",
        entities: int = 0,
        deaths: float = 0.0,
        rejoins: bool = False,
        available: bool = False,
        max_steps: int = 20,
    ) -> None:
        if kinds not in (1, 2):
            raise ValueError(f"expected kinds to be 1 or 2 (got {kinds!r})")
        if continuous not in ("auto", True, False, "mixed") or (continuous == "mixed" and kinds == 1):
            raise ValueError(
                f"expected continuous to be auto, true, false, or mixed with 2 kinds (got {continuous!r}, {kinds})"
            )
        if reward not in ("own", "team"):
            raise ValueError(f"expected reward to be own or team (got {reward!r})")
        if not 0.0 <= deaths <= 1.0:
            raise ValueError(f"expected deaths to be a probability (got {deaths!r})")
        self.device = torch.device(device)
        self._numbered = tuple(
            continuous in ("auto", False) or (continuous == "mixed" and k == 0) for k in range(kinds)
        )
        actions: tuple[Action, ...] = tuple(
            Discrete(_MOVES_OF[k]) if self._numbered[k] else Continuous((-_SPEED,) * 2, (_SPEED,) * 2)
            for k in range(kinds)
        )
        masked = available or (kinds == 2 and any(self._numbered))
        self.spec = TeamSpec(
            num_envs=num_envs,
            n_agents=4 if n_agents is None else n_agents,
            own=(5,),
            actions=actions,
            kinds=("walker", "runner")[:kinds],
            reward=(reward,) * kinds,
            n_entities=entities,
            entity_dim=3 if entities else 0,
            position_dim=2,
            available=masked and any(self._numbered),
            rejoins=rejoins,
            max_steps=max_steps,
            metrics={"success": "last"},
            world="native/meet",
        )
        n = self.spec.n_agents
        self._deaths, self._limited, self._max_steps = deaths, available, max_steps
        kind = torch.arange(n, device=self.device) % kinds
        self._kind = kind.expand(num_envs, -1)  # [B, N]
        self._moves = torch.tensor(_MOVES, device=self.device) * _SPEED  # [9, 2]
        self._sizes = torch.tensor(_MOVES_OF, device=self.device)[kind].unsqueeze(-1)  # [N, 1]
        self._is_numbered = torch.tensor(self._numbered, device=self.device)[kind]  # [N]
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
        pending, alive = state["pending"], state["alive"]
        counts = alive & ~pending.unsqueeze(-1)  # [B, N]: whose step this is
        moved = (state["position"] + self._displacement(action)).clamp(-1, 1)
        position = torch.where(counts.unsqueeze(-1), moved, state["position"])
        distance = torch.linalg.vector_norm(position - state["goal"].unsqueeze(1), dim=-1)  # [B, N]
        reward = torch.where(counts, state["distance"] - distance, 0.0)
        if spec.shared_reward:
            reward = (reward.sum(-1, keepdim=True) / counts.sum(-1, keepdim=True).clamp(min=1)).repeat(1, spec.n_agents)
        if self._deaths or spec.rejoins:
            alive = self._fates(alive)
        living = alive.sum(-1)
        there = (alive & (distance <= _NEAR)).sum(-1)
        steps = state["steps"] + 1
        terminated = (there == living) & ~pending
        truncated = (steps >= self._max_steps) & ~terminated & ~pending
        success = torch.where(pending, 0.0, there / living.clamp(min=1))

        self._state = {
            **state,
            "position": position,
            "distance": distance,
            "alive": alive,
            "steps": steps,
            "pending": terminated | truncated,
        }
        # On the CPU it is cheaper to ask; elsewhere drawing for nothing is cheaper than waiting.
        if self.device.type != "cpu" or bool(pending.any()):
            for name, fresh in self._draw().items():
                old = self._state[name]
                self._state[name] = torch.where(pending.view(-1, *(1,) * (old.ndim - 1)), fresh, old)
        outcome = Outcome(
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=~pending,
            metrics=TensorDict({"success": success}, batch_size=[spec.num_envs]),
            batch_size=[spec.num_envs],
        )
        return self._observe(), outcome

    def _check(self, state: dict[str, Tensor]) -> None:
        expected = (self.spec.num_envs, self.spec.n_agents)
        if (got := tuple(state["alive"].shape)) != expected:
            raise ValueError(f"expected the state of {expected[0]} teams of {expected[1]} (got {got})")

    def scripted(self, observation: Observation) -> Tensor:
        """Straight to the point that somebody alive knows, or to the lit post; solves the task."""
        if observation.entities is not None and observation.entity_present is not None:
            lit = (observation.entities[..., 0] > 0) & observation.entity_present
            goal = torch.where(lit.unsqueeze(-1), observation.entities[..., 1:], 0.0).sum(-2)  # [B, 2]
            known = lit.any(-1)
        else:
            knows = observation.own[..., 2].bool() & observation.alive
            told = torch.where(knows.unsqueeze(-1), observation.own[..., 3:], 0.0).sum(-2)
            goal, known = told / knows.sum(-1, keepdim=True).clamp(min=1), knows.any(-1)
        way: Tensor = torch.where(known[:, None, None], goal.unsqueeze(-2) - observation.own[..., :2], 0.0)  # [B, N, 2]
        displacement = way.clamp(-_SPEED, _SPEED)
        if not any(self._numbered):
            return displacement
        far = torch.linalg.vector_norm(way.unsqueeze(-2) - self._moves, dim=-1)
        legal = torch.arange(len(_MOVES), device=self.device) < self._sizes
        move = far.masked_fill(~legal, torch.inf).argmin(-1)  # [B, N]
        if self.spec.discrete:
            return move
        action = torch.zeros(*move.shape, self.spec.n_actions, device=self.device)
        action[..., :2] = displacement
        action[..., 0] = torch.where(self._is_numbered, move.to(action), action[..., 0])
        return action

    def _displacement(self, action: Tensor) -> Tensor:
        """How far each agent moves, [B, N, 2]."""
        if self.spec.discrete:
            return self._moves[action]
        free = action[..., :2].clamp(-_SPEED, _SPEED)
        if self.spec.continuous:
            return free
        numbered = self._moves[torch.where(self._is_numbered, action[..., 0], 0.0).long()]
        return torch.where(self._is_numbered.unsqueeze(-1), numbered, free)

    def _fates(self, alive: Tensor) -> Tensor:
        """Who is alive after this step, [B, N]."""
        chance = torch.rand(alive.shape, generator=self._generator, device=self.device)
        survives = alive & (chance >= self._deaths)
        return survives | (~alive & (chance < _RETURN)) if self.spec.rejoins else survives

    def _draw(self) -> dict[str, Tensor]:
        """A first state for every team."""
        b, n, m = self.spec.num_envs, self.spec.n_agents, self.spec.n_entities
        u = torch.rand(b, 3 * n + 2 + 3 * m, generator=self._generator, device=self.device)
        place, who, where, post, seen = u.split([2 * n, n, 2, 2 * m, m], dim=1)
        position = place.reshape(b, n, 2) * 2 - 1
        goal = where * 1.6 - 0.8
        state = {
            "position": position,
            "goal": goal,
            "distance": torch.linalg.vector_norm(position - goal.unsqueeze(1), dim=-1),
            "alive": torch.ones(b, n, dtype=torch.bool, device=self.device),
            "knows": (who > 0.5) | (who == who.amax(1, keepdim=True)),
            "steps": torch.zeros(b, dtype=torch.long, device=self.device),
            "pending": torch.zeros(b, dtype=torch.bool, device=self.device),
        }
        if m:
            lit = seen == seen.amax(1, keepdim=True)  # [B, M]
            post = torch.where(lit.unsqueeze(-1), goal.unsqueeze(1), post.reshape(b, m, 2) * 2 - 1)
            state |= {
                "post": post,
                "lit": lit,
                "present": lit | (seen > 0.3),
                "knows": torch.zeros_like(state["alive"]),
            }
        return state

    def _observe(self) -> Observation:
        state = self._state
        knows = state["knows"].unsqueeze(-1).to(state["position"])
        seen = Observation(
            own=torch.cat([state["position"], knows, knows * state["goal"].unsqueeze(1)], dim=-1),
            alive=state["alive"],
            kind=self._kind,
            position=state["position"],
            available=self._available() if self.spec.available else None,
            batch_size=[self.spec.num_envs],
        )
        if self.spec.n_entities:
            seen.entities = torch.cat([state["lit"].unsqueeze(-1).to(knows), state["post"]], dim=-1)
            seen.entity_position = state["post"]
            seen.entity_present = state["present"]
        return seen

    def _available(self) -> Tensor:
        """Legal actions, [B, N, A]; all of a continuous kind's components are."""
        components = torch.where(self._is_numbered.unsqueeze(-1), self._sizes, 2)
        legal = (torch.arange(self.spec.n_actions, device=self.device) < components).expand(self.spec.num_envs, -1, -1)
        if self._limited:
            target = self._state["position"].unsqueeze(2) + self._moves
            inside = (target.abs() <= 1).all(-1)[..., : self.spec.n_actions]  # [B, N, A]
            legal = legal & (inside | ~self._is_numbered.unsqueeze(-1))
        return legal & self._state["alive"].unsqueeze(-1)
