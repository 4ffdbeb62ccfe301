"""A stand-in for SMACv2: the same interface and the same shapes, with a battle of a few lines for a game."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np

SIGHT, RANGE, SIDE, LIMIT = 9.0, 6.0, 32.0, 25
TYPES = ("marine", "marauder", "medivac")


class StarCraftCapabilityEnvWrapper:
    def __init__(self, **kwargs: Any) -> None:
        self.config = kwargs
        assert kwargs["continuing_episode"] and kwargs["obs_own_pos"]
        team = kwargs["capability_config"]
        self.n_agents, self.n_enemies = team["n_units"], team["n_enemies"]
        self.types = team["team_gen"]["unit_types"]
        self.map_type, self.medivac_id, self.n_actions_no_attack = "terran_gen", 1_000, 6
        self.n_actions = 6 + max(self.n_agents, self.n_enemies)
        self.agents: dict[int, Any] = {}
        self.enemies: dict[int, Any] = {}

    def get_env_info(self) -> dict[str, int]:
        return {"n_agents": self.n_agents, "n_actions": self.n_actions, "episode_limit": LIMIT}

    def get_obs_move_feats_size(self) -> int:
        return 4

    def get_obs_enemy_feats_size(self) -> tuple[int, int]:
        return self.n_enemies, 5 + len(TYPES)

    def get_obs_ally_feats_size(self) -> tuple[int, int]:
        return self.n_agents - 1, 5 + len(TYPES)

    def get_obs_own_feats_size(self) -> int:
        return 3 + len(TYPES)

    def _unit(self, x: float, kind: str) -> Any:
        place = SimpleNamespace(x=x + 3 * random.random(), y=14 + 4 * random.random())
        number = self.medivac_id if kind == "medivac" else TYPES.index(kind)
        return SimpleNamespace(pos=place, health=20.0, health_max=20.0, unit_type=number, kind=TYPES.index(kind))

    def reset(self) -> None:
        # As the real one where it had to try twice: nothing is returned.
        self.steps = 0
        kinds = ["marine"] + [random.choice(self.types) for _ in range(self.n_agents - 1)]
        self.agents = {i: self._unit(10, kinds[i]) for i in range(self.n_agents)}
        self.enemies = {i: self._unit(16, kinds[i % self.n_agents]) for i in range(self.n_enemies)}

    def get_unit_by_id(self, i: int) -> Any:
        return self.agents[i]

    @staticmethod
    def distance(one: Any, other: Any) -> float:
        return float(np.hypot(one.pos.x - other.pos.x, one.pos.y - other.pos.y))

    def get_avail_agent_actions(self, i: int) -> list[int]:
        unit, legal = self.agents[i], [0] * self.n_actions
        if unit.health <= 0:
            return [1] + legal[1:]
        legal[1] = 1
        legal[2:6] = unit.pos.y < SIDE - 2, unit.pos.y > 2, unit.pos.x < SIDE - 2, unit.pos.x > 2
        heals = unit.unit_type == self.medivac_id
        for j, other in (self.agents if heals else self.enemies).items():
            near = other.health > 0 and self.distance(unit, other) <= RANGE
            legal[6 + j] = int(near and not (heals and other.unit_type == self.medivac_id))
        return [int(one) for one in legal]

    def get_avail_actions(self) -> list[list[int]]:
        return [self.get_avail_agent_actions(i) for i in self.agents]

    def get_obs(self) -> list[np.ndarray]:
        return [self._obs(i) for i in self.agents]

    def get_state(self) -> np.ndarray:
        return np.zeros(1, np.float32)

    def _obs(self, i: int) -> np.ndarray:
        unit, legal = self.agents[i], self.get_avail_agent_actions(i)
        enemies = np.zeros(self.get_obs_enemy_feats_size(), np.float32)
        fellows = np.zeros(self.get_obs_ally_feats_size(), np.float32)
        moving, mine = np.zeros(4, np.float32), np.zeros(3 + len(TYPES), np.float32)
        if unit.health > 0:
            moving[:] = legal[2:6]
            others = [other for j, other in self.agents.items() if j != i]
            for rows, units in ((enemies, self.enemies.values()), (fellows, others)):
                for j, (row, other) in enumerate(zip(rows, units, strict=True)):
                    far = self.distance(unit, other)
                    if other.health > 0 and far < SIGHT:
                        row[0] = legal[6 + j] if rows is enemies else 1
                        row[1:4] = far / SIGHT, (other.pos.x - unit.pos.x) / SIGHT, (other.pos.y - unit.pos.y) / SIGHT
                        row[4], row[5 + other.kind] = other.health / other.health_max, 1
            mine[:3] = unit.health / unit.health_max, unit.pos.x / SIDE, unit.pos.y / SIDE
            mine[3 + unit.kind] = 1
        return np.concatenate([moving, enemies.ravel(), fellows.ravel(), mine])

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        assert len(actions) == self.n_agents
        self.steps += 1
        before = sum(enemy.health for enemy in self.enemies.values())
        legal = self.get_avail_actions()
        for i, action in enumerate(actions):
            unit = self.agents[i]
            assert legal[i][action], f"agent {i} cannot do {action}"
            if 2 <= action < 6:
                unit.pos.x += 2 * ((action == 4) - (action == 5))
                unit.pos.y += 2 * ((action == 2) - (action == 3))
            elif action >= 6 and unit.unit_type == self.medivac_id:
                self.agents[action - 6].health = min(20.0, self.agents[action - 6].health + 3)
            elif action >= 6:
                self.enemies[action - 6].health = max(0.0, self.enemies[action - 6].health - 4)
        for enemy in self.enemies.values():
            near = [unit for unit in self.agents.values() if unit.health > 0 and self.distance(enemy, unit) <= RANGE]
            if enemy.health > 0 and near and random.random() < 0.7:
                random.choice(near).health -= 4
        for unit in self.agents.values():
            unit.health = max(0.0, unit.health)
        dead = [sum(u.health <= 0 for u in side.values()) for side in (self.agents, self.enemies)]
        info: dict[str, Any] = {"battle_won": False, "dead_allies": dead[0], "dead_enemies": dead[1]}
        over = dead[0] == self.n_agents or dead[1] == self.n_enemies
        if over:
            info["battle_won"] = dead[0] < self.n_agents
        elif self.steps >= LIMIT:
            over = info["episode_limit"] = True
        return (before - sum(enemy.health for enemy in self.enemies.values())) / 10, over, info

    def close(self) -> None:
        self.agents = {}
