"""Several speakers and listeners of different kinds: MPE's simple_speaker_listener, at any team size.

Listeners move and do not know where to; speakers know and cannot move. There is a landmark of each colour. Listeners
are of two kinds, light `scout`s and heavy `hauler`s, and each kind has one landmark for its goal, which the speakers
know who speak to that kind. A speaker says one word a step, through VMAS's own communication actions; what a listener
hears is the mean of the words that were said to its kind. The words are as many as the colours, and mean nothing at
first.

It is written as any scenario of a user's own (`env=vmas/custom env.scenario=package.module:Class`): BaseScenario's
methods, and beside them the hooks that `gcoord.envs.vmas_scenario.Hooks` reads.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from vmas.simulator.core import Agent, Landmark, Sphere, World
from vmas.simulator.dynamics.static import Static
from vmas.simulator.scenario import BaseScenario
from vmas.simulator.utils import ScenarioUtils

from gcoord.trajectory import Observation

KINDS = ("scout", "hauler")
MASS = {"scout": 1.0, "hauler": 2.5}
REACH = 0.15  # a listener this close to its goal has arrived


class Scenario(BaseScenario):
    """A team of `n_agents`: the first half speakers (rounded down, at least one for each kind of listeners), the others
    listeners; both serve the two kinds in turn.

    Arguments of the world:
        n_agents: 4 or more. n_speakers: None: half of them.
        n_colours: landmarks, words, and goals to choose from.

    own [whether it speaks 1, which kind of listeners it is or serves 2, velocity 2, the goal's colour for a speaker,
    what was heard for a listener, n_colours]. Landmarks are entities with their colour. The reward is the team's: minus
    the listeners' mean distance to their goals. `success`: the share of listeners who are at their goal.
    Nothing collides, so the square of side 2 does for any team.
    """

    gcoord_reward: ClassVar[str] = "team"
    gcoord_metrics: ClassVar[dict[str, str]] = {"success": "last", "understood": "mean"}

    def make_world(self, batch_dim: int, device: torch.device, **kwargs: Any) -> World:
        n_agents = kwargs.pop("n_agents", 6)
        n_speakers = kwargs.pop("n_speakers", None)
        self.n_colours = kwargs.pop("n_colours", 3)
        ScenarioUtils.check_kwargs_consumed(kwargs)
        n_speakers = n_agents // 2 if n_speakers is None else n_speakers
        if n_speakers < len(KINDS) or n_agents - n_speakers < len(KINDS):
            raise ValueError(
                f"expected at least {len(KINDS)} speakers and {len(KINDS)} listeners, one for each kind "
                f"(got n_agents={n_agents} with {n_speakers} speakers)"
            )
        world = World(batch_dim, device, dim_c=self.n_colours)
        self.speakers, self.listeners = [], []
        for i in range(n_speakers):
            speaker = Agent(
                f"speaker_{i}", shape=Sphere(0.075), movable=False, collide=False, silent=False, dynamics=Static()
            )
            speaker.serves = i % len(KINDS)
            self.speakers.append(speaker)
        for i in range(n_agents - n_speakers):
            kind = KINDS[i % len(KINDS)]
            listener = Agent(f"{kind}_{i}", shape=Sphere(0.05), collide=False, silent=True, mass=MASS[kind])
            listener.serves = i % len(KINDS)
            self.listeners.append(listener)
        for agent in [*self.speakers, *self.listeners]:
            world.add_agent(agent)
        for i in range(self.n_colours):
            world.add_landmark(Landmark(f"landmark_{i}", collide=False, shape=Sphere(0.04)))
        self.goal = torch.zeros(batch_dim, len(KINDS), dtype=torch.long, device=device)  # each kind's colour
        return world

    def reset_world_at(self, env_index: int | None = None) -> None:
        rows = self.world.batch_dim if env_index is None else 1
        for body in self.world.entities:
            body.set_pos(torch.rand(rows, 2, device=self.world.device) * 2 - 1, batch_index=env_index)
        goal = torch.randint(self.n_colours, (rows, len(KINDS)), device=self.world.device)
        if env_index is None:
            self.goal = goal
        else:
            self.goal[env_index] = goal[0]

    def reward(self, agent: Agent) -> Tensor:
        if agent is self.world.agents[0]:
            self.far = self.distances()
        return -self.far.mean(-1)

    def observation(self, agent: Agent) -> Tensor:
        return self.gcoord_own(agent)

    def info(self, agent: Agent) -> dict[str, Tensor]:
        if agent not in self.listeners:
            return {}
        right = self.heard(agent).argmax(-1) == self.goal[:, agent.serves]
        return {"success": self.far[:, self.listeners.index(agent)] < REACH, "understood": right}

    def distances(self) -> Tensor:
        """How far each listener is from its goal, [B, listeners]."""
        landmark = torch.stack([body.state.pos for body in self.world.landmarks], dim=1)
        position = torch.stack([body.state.pos for body in self.listeners], dim=1)
        goal = self.goal[:, [listener.serves for listener in self.listeners]]
        return torch.linalg.vector_norm(landmark.gather(1, goal.unsqueeze(-1).expand(-1, -1, 2)) - position, dim=-1)

    def heard(self, listener: Agent) -> Tensor:
        """The mean of the words said last to a listener's kind, [B, n_colours]; zeros at first."""
        words = [speaker.state.c for speaker in self.speakers if speaker.serves == listener.serves]
        return torch.stack(words).mean(0)

    # What gcoord reads beyond BaseScenario ----------------------------------------------------------------------------

    def gcoord_own(self, agent: Agent) -> Tensor:
        speaks = agent in self.speakers
        serves = torch.nn.functional.one_hot(torch.tensor(agent.serves), len(KINDS)).to(agent.state.pos)
        goal = torch.nn.functional.one_hot(self.goal[:, agent.serves], self.n_colours).to(agent.state.pos)
        role = torch.cat([serves.new_tensor([float(speaks)]), serves]).expand(len(goal), -1)
        return torch.cat([role, agent.state.vel, goal if speaks else self.heard(agent)], dim=-1)

    def gcoord_entities(self) -> tuple[Tensor, Tensor, Tensor]:
        position = torch.stack([body.state.pos for body in self.world.landmarks], dim=1)
        colour = torch.eye(self.n_colours, device=position.device).expand(len(position), -1, -1)
        return colour, position, torch.ones_like(position[..., 0], dtype=torch.bool)

    def gcoord_scripted(self, observation: Observation, continuous: bool) -> Tensor:
        """Speakers say the goal's colour; listeners go to the landmark of the colour that they hear most."""
        own, landmark = observation.own, observation.entity_position
        assert landmark is not None and observation.position is not None
        colour = own[..., 5:]
        index = colour.argmax(-1, keepdim=True)
        goal = landmark.gather(1, index.expand(-1, -1, 2)) - observation.position
        heard = colour.sum(-1, keepdim=True) > 0
        force = ((3.0 * goal - own[..., 3:5]) * heard).clamp(-1, 1)
        speaks = own[..., :1] > 0
        if not continuous:
            digit = torch.where(force > 0.1, 2, torch.where(force < -0.1, 1, 0))  # stay, minus, plus
            return torch.where(speaks, index, digit[..., :1] * 3 + digit[..., 1:]).squeeze(-1)
        wide = torch.nn.functional.pad(force, (0, self.n_colours - 2))
        return torch.where(speaks, colour, wide)
