"""The real SMACv2, where StarCraft II is installed, with what an agent senses and does made independent of the team."""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.recipe import Recipe

if TYPE_CHECKING:
    from gcoord.envs.parallel import ParallelTeamEnv

_MOVES = 5  # stop, north, south, east, west; SMAC's actions 1 to 5, its action 0 being the dead's
# Each race's units and weights as SMACv2 publishes them; what cannot win alone; what heals.
RACES: dict[str, tuple[tuple[str, ...], tuple[float, ...], tuple[str, ...]]] = {
    "terran": (("marine", "marauder", "medivac"), (0.45, 0.45, 0.1), ("medivac",)),
    "protoss": (("stalker", "zealot", "colossus"), (0.45, 0.45, 0.1), ("colossus",)),
    "zerg": (("zergling", "hydralisk", "baneling"), (0.45, 0.45, 0.1), ("baneling",)),
}


def smacv2(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    continuous: bool | Literal["auto"] = "auto",
    n_enemies: int | None = None,
    race: Literal["terran", "protoss", "zerg"] = "terran",
    unit_types: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    start: str = "surrounded_and_reflect",
    slots: int = 5,
    options: dict[str, Any] | None = None,
) -> ParallelTeamEnv:
    """SMACv2, https://arxiv.org/abs/2212.07489: units drawn anew each episode fight the game's own AI.

    Actions: 0 stop, 1 to 4 walk north, south, east, west, 5 + k strike the unit in slot k: a fighter's slots are the
    `slots` nearest living enemies that it sees, a medivac's the nearest living fellows, nearest first. So sizes do not
    grow with the team; a slot that is out of range, or empty, is not available.

    own: SMAC's own and movement features, then of each slot SMAC's row of that unit (whether it can be struck now,
    distance, relative x and y, health, shield, type), padded to the wider of its rows for enemies and for fellows.
    Entities: the enemies that anybody sees: health, shield, type as in SMAC's rows. Fellows are agents and are heard.
    position: in the game's units. The reward is the team's. A battle that runs out of time is truncated.

    The game draws its units and places from streams that cannot be seeded: runs are not repeatable, and a resumed run
    goes on with another battle. The map is SMACv2's `10gen_<race>`, at every size: the arena does not grow.

    Arguments:
        n_agents: units of the team; None is 5.
        n_enemies: None: as many.
        race: of both sides. unit_types, weights: None: SMACv2's own of that race.
        start: SMACv2's distribution of starting places.
        options: further arguments of SMACv2's StarCraft2Env, such as `{"difficulty": "7"}`.

    Metrics: `success`, 1 for a victory; `kills` and `losses`, shares of the enemies and of the agents that are dead.
    Raises ModuleNotFoundError or FileNotFoundError in one line that says what to install.
    """
    from gcoord.envs.parallel import ParallelTeamEnv

    n = 5 if n_agents is None else n_agents
    if continuous is True:
        raise ValueError("expected continuous=false or auto in smac/smacv2, whose actions are discrete (got true)")
    if race not in RACES:
        raise ValueError(f"expected race to be {', '.join(RACES)} (got {race!r})")
    known, chances, exceptions = RACES[race]
    types = tuple(unit_types) if unit_types is not None else known
    odds = tuple(weights) if weights is not None else (chances if types == known else (1 / len(types),) * len(types))
    if len(types) != len(odds) or not types or any(one not in known for one in types):
        raise ValueError(f"expected unit_types of {', '.join(known)} and as many weights (got {types} and {odds})")
    if n < 1 or slots < 1 or (n_enemies is not None and n_enemies < 1):
        raise ValueError(f"expected at least one agent, enemy and slot (got {n}, {n_enemies}, {slots})")
    require_game()
    capability = {
        "n_units": n,
        "n_enemies": n_enemies or n,
        "team_gen": {
            "dist_type": "weighted_teams",
            "unit_types": list(types),
            "weights": list(odds),
            "observe": True,
            "exception_unit_types": [one for one in exceptions if one in types],
        },
        "start_positions": {"dist_type": start, "p": 0.5, "map_x": 32, "map_y": 32},
    }
    if (options or {}).get("conic_fov"):
        raise ValueError("expected conic_fov=false in smac/smacv2, which has no actions to turn with (got true)")
    # With `continuing_episode` the game tells a battle that ran out of time from one that was lost.
    arguments = {
        "map_name": f"10gen_{race}", "capability_config": capability, "use_unit_ranges": True, "min_attack_range": 2,
        "obs_own_pos": True, **(options or {}), "continuing_episode": True,
    }  # fmt: skip
    recipe = Recipe(
        "gcoord.envs.smac:make_battle",
        {"slots": slots, "arguments": arguments},
        positions="gcoord.envs.smac:positions",
        entities="gcoord.envs.smac:entities",
        metrics="gcoord.envs.smac:metrics",
        reductions={"success": "last", "kills": "last", "losses": "last"},
    )
    return ParallelTeamEnv(
        recipe, num_envs, n, device, seed, workers, reward="team", world="smac/smacv2", density="arena"
    )


def require_game() -> None:
    """Raises, in one line, where SMACv2 or StarCraft II is not there."""
    if importlib.util.find_spec("smacv2") is None:
        raise ModuleNotFoundError(
            "expected the package smacv2 for smac/smacv2 (not found): pip install "
            "git+https://github.com/oxwhirl/smacv2.git, and install StarCraft II 4.10 with SMACv2's maps",
            name="smacv2",
        )
    # Elsewhere the game's own installer registers where it is.
    folder = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()
    if sys.platform.startswith("linux") and not folder.is_dir():
        raise FileNotFoundError(
            f"expected StarCraft II in {folder} for smac/smacv2 (not found): install version 4.10 with SMACv2's maps "
            "(https://github.com/oxwhirl/smacv2) and set SC2PATH to its folder"
        )


class Battle:
    """SMACv2's StarCraftCapabilityEnvWrapper as a ParallelEnv whose spaces do not grow with the team.

    Arguments: env: the wrapper; slots: units that can be struck at a time.
    """

    def __init__(self, env: Any, slots: int) -> None:
        from gymnasium import spaces

        self.env, self.slots = env, slots
        info = env.get_env_info()
        self.possible_agents = [f"unit_{i}" for i in range(info["n_agents"])]
        self.agents: list[str] = []
        self.moving = env.get_obs_move_feats_size()
        self.n_enemies, enemy_width = env.get_obs_enemy_feats_size()
        self.n_fellows, fellow_width = env.get_obs_ally_feats_size()
        self.mine = env.get_obs_own_feats_size()
        self.first_strike = env.n_actions_no_attack
        self.widths = (enemy_width, fellow_width)
        self.width = max(self.widths)
        size = self.mine + self.moving + slots * self.width
        self.space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.actions = spaces.Discrete(_MOVES + slots)
        self.result = {"success": 0.0, "kills": 0.0, "losses": 0.0}
        self.who = np.full((len(self.possible_agents), slots), -1)

    def observation_space(self, agent: str) -> Any:
        return self.space

    def action_space(self, agent: str) -> Any:
        return self.actions

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        # What it returns is not used: SMACv2 returns nothing where it had to try twice.
        self.env.reset()
        self.agents = self.possible_agents[:]
        self.result = dict.fromkeys(self.result, 0.0)
        return self._look()

    def step(self, actions: dict[str, int]) -> tuple[dict[str, Any], ...]:
        names = self.possible_agents
        acted = [self._number(i, actions.get(name)) for i, name in enumerate(names)]
        reward, over, info = self.env.step(acted)
        # Without its figures the game had broken down and was started again.
        ran_out = over and (bool(info.get("episode_limit")) or "battle_won" not in info)
        lost = info.get("dead_allies", 0) / len(names), info.get("dead_enemies", 0) / self.n_enemies
        self.result = {"success": float(info.get("battle_won", False)), "losses": lost[0], "kills": lost[1]}
        before = self.agents
        self.agents = [name for i, name in enumerate(names) if name in before and self._unit(i).health > 0]
        seen, infos = self._look()
        ends = {name: bool(over and not ran_out) or name not in self.agents for name in before}
        cut = {name: bool(ran_out) and name in self.agents for name in before}
        if over:
            self.agents = []
        return seen, dict.fromkeys(before, float(reward)), ends, cut, infos

    def close(self) -> None:
        self.env.close()

    def _unit(self, i: int) -> Any:
        return self.env.get_unit_by_id(i)

    def _number(self, i: int, action: int | None) -> int:
        """SMAC's number of an action; one that is not available is a stop."""
        if self._unit(i).health <= 0 or action is None:
            return 0
        number = self._strike(i, action - _MOVES) if action >= _MOVES else int(action) + 1
        # The game ends the program at an action that is not legal.
        return number if self.env.get_avail_agent_actions(i)[number] else 1

    def _strike(self, i: int, slot: int) -> int:
        whom = int(self.who[i, slot])
        return self.first_strike + whom if whom >= 0 else 1

    def _look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Each living agent's own features and slots, and its action mask."""
        self.rows = self.env.get_obs()
        legal = np.asarray(self.env.get_avail_actions(), bool)
        seen, infos = {}, {}
        self.who[:] = -1
        for i, name in enumerate(self.possible_agents):
            if name not in self.agents:
                continue
            moving, enemies, fellows, mine = self.parts(i)
            heals = self._heals(i)
            rows = fellows if heals else enemies
            # Who is not seen has a row of zeros; column 1 is the distance.
            met = np.flatnonzero((rows != 0).any(1))
            met = met[np.argsort(rows[met, 1], kind="stable")][: self.slots]
            # SMAC's fellows are counted without oneself.
            self.who[i, : len(met)] = met + (met >= i) if heals else met
            mask = np.zeros(_MOVES + self.slots, np.int8)
            mask[:_MOVES] = legal[i, 1 : 1 + _MOVES]
            slots = np.zeros((self.slots, self.width), np.float32)
            for k, row in enumerate(met):
                slots[k, : rows.shape[1]] = rows[row]
                mask[_MOVES + k] = slots[k, 0] = legal[i, self.first_strike + self.who[i, k]]
            seen[name] = np.concatenate([mine, moving, slots.ravel()]).astype(np.float32)
            infos[name] = {"action_mask": mask}
        return seen, infos

    def parts(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What SMAC shows agent i: movement, a row for each enemy, one for each fellow, its own."""
        sizes = [self.moving, self.n_enemies * self.widths[0], self.n_fellows * self.widths[1], self.mine]
        moving, enemies, fellows, mine = np.split(
            np.asarray(self.rows[i], np.float32)[: sum(sizes)], np.cumsum(sizes)[:3]
        )
        return moving, enemies.reshape(self.n_enemies, -1), fellows.reshape(self.n_fellows, self.widths[1]), mine

    def _heals(self, i: int) -> bool:
        medivac = getattr(self.env, "medivac_id", 0)
        return bool(medivac) and self._unit(i).unit_type == medivac and self.env.map_type in ("MMM", "terran_gen")


def make_battle(slots: int, arguments: dict[str, Any]) -> Battle:
    """SMACv2's game; loads it."""
    from smacv2.env.starcraft2.wrapper import StarCraftCapabilityEnvWrapper  # type: ignore[import-not-found]

    return Battle(StarCraftCapabilityEnvWrapper(**copy.deepcopy(arguments)), slots)


def positions(battle: Battle) -> dict[str, tuple[float, float]]:
    """Where each agent is on the map."""
    places = (battle._unit(i).pos for i in range(len(battle.possible_agents)))
    return {name: (place.x, place.y) for name, place in zip(battle.possible_agents, places, strict=True)}


def entities(battle: Battle) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The enemies' health, shield and type as anybody sees them, their places, and whether anybody does."""
    living = [i for i in range(len(battle.possible_agents)) if battle._unit(i).health > 0]
    rows = [battle.parts(i)[1] for i in living] or [np.zeros((battle.n_enemies, battle.widths[0]), np.float32)]
    seen = np.stack(rows)  # [living, M, features]
    units = [battle.env.enemies[e] for e in range(battle.n_enemies)]
    present = (seen != 0).any((0, 2)) & np.array([unit.health > 0 for unit in units])
    places = np.array([[unit.pos.x, unit.pos.y] for unit in units], np.float32)
    return seen[:, :, 4:].max(0) * present[:, None], places * present[:, None], present


def metrics(battle: Battle) -> dict[str, float]:
    """How the battle stands."""
    return battle.result


CARDS = {
    "smac/smacv2": Card(
        sizes=(5, 10, 20),
        knows="SMAC's own and movement features, and the 5 nearest enemies that it sees",
        entities="enemies that anybody sees",
        dies=True,
        extra="smacv2 and StarCraft II 4.10 (https://github.com/oxwhirl/smacv2)",
        note="The game's own draws cannot be seeded; tested against a stand-in of the same interface.",
    )
}
