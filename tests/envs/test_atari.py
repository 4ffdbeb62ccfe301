from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import learn, learn_by_command

import gcoord
from gcoord.data.playing import play, random_actions
from gcoord.envs import check_team_env
from gcoord.envs.atari import Console, space_invaders, space_invaders_alone
from gcoord.envs.copies import episode_seed

pytest.importorskip("ale_py")
pytest.importorskip("multi_agent_ale_py")


def test_two_players_keep_every_promise() -> None:
    check_team_env(partial(space_invaders, max_steps=4, workers=0), n_agents=[2], num_envs=2)


def test_one_player_keeps_every_promise() -> None:
    check_team_env(partial(space_invaders_alone, max_steps=4, workers=0), n_agents=[1])


def raw_two(**kwargs: Any) -> Any:
    import ale_py
    from pettingzoo.atari import space_invaders_v2

    roms = Path(ale_py.__file__).parent / "roms"
    return space_invaders_v2.parallel_env(auto_rom_install_path=str(roms), obs_type="grayscale_image", **kwargs)


def test_two_players_see_supersuits_pictures_and_earn_the_raw_points() -> None:
    import supersuit

    env = space_invaders(workers=0, sticky=0.0, noops=0)
    theirs = supersuit.max_observation_v0(raw_two(), 2)
    theirs = supersuit.frame_stack_v2(supersuit.reshape_v0(supersuit.resize_v1(theirs, 84, 84), (84, 84)), 4)
    names = theirs.possible_agents
    seen = env.reset(1)
    raw_seen, _ = theirs.reset(seed=episode_seed(env._seed, 0, 0))
    act = random_actions(env.spec, 0)
    points = 0.0
    stacks = [raw_seen[names[0]][..., -1].copy()] * 4
    for _ in range(60):
        for i in range(2):
            apart = np.abs(seen.own[0, i].numpy().astype(int) - np.stack(stacks))
            assert apart.max() <= 1 and (apart > 0).mean() < 1e-3
        action = act(seen, None, torch.zeros(1))[0]
        given, earned = dict(zip(names, action[0].tolist(), strict=True)), np.zeros(2)
        for _ in range(4):
            raw_seen, raw_reward, *_ = theirs.step(given)
            earned += list(raw_reward.values())
        stacks = [*stacks[1:], raw_seen[names[0]][..., -1].copy()]
        seen, outcome = env.step(action)
        assert outcome.reward[0].tolist() == earned.tolist()
        assert outcome.metrics["score"].item() == earned.sum()
        points += earned.sum()
    assert points > 0


class Reels:
    """A game for two that pays each the number of its action, lasts 9 frames for the first and 6 for the second."""

    unwrapped = None
    possible_agents = ("first_0", "second_0")

    def __init__(self) -> None:
        self.asked: list[dict[str, int]] = []

    def observation_space(self, agent: str) -> Any:
        from gymnasium.spaces import Box

        return Box(0, 255, (90, 90, 1), np.uint8)

    def action_space(self, agent: str) -> Any:
        return None

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], ...]:
        self.agents, self.at, self.asked = list(self.possible_agents), 0, []
        return dict.fromkeys(self.agents, np.zeros((90, 90, 1), np.uint8)), {}

    def step(self, actions: dict[str, int]) -> tuple[dict[str, Any], ...]:
        assert set(actions) == set(self.agents)
        self.asked.append(actions)
        self.at += 1
        bright = 200 if self.at % 4 == 3 else 10
        seen = dict.fromkeys(actions, np.full((90, 90, 1), bright, np.uint8))
        ended = {name: self.at >= (9 if name == "first_0" else 6) for name in actions}
        self.agents = [name for name in actions if not ended[name]]
        return seen, {name: float(a) for name, a in actions.items()}, ended, dict.fromkeys(actions, False), {}


def test_an_action_lasts_four_frames_shows_the_brighter_of_two_and_ends_with_the_player() -> None:
    reels = Reels()
    console = Console(reels, skip=4, sticky=0.0, noops=0, clip=False)
    console.reset(seed=0)
    seen, rewards, ended, _, _ = console.step({"first_0": 2, "second_0": 3})
    assert rewards == {"first_0": 8.0, "second_0": 12.0} and not any(ended.values())
    assert (seen["first_0"] == 200).all() and seen["first_0"] is seen["second_0"]
    _, rewards, ended, _, _ = console.step({"first_0": 1, "second_0": 1})
    assert rewards == {"first_0": 4.0, "second_0": 2.0} and ended == {"first_0": False, "second_0": True}
    _, rewards, ended, _, _ = console.step({"first_0": 5})
    assert rewards == {"first_0": 5.0} and ended == {"first_0": True} and reels.at == 9


def test_players_stick_to_their_actions_each_alone_and_at_the_given_rate() -> None:
    reels = Reels()
    console = Console(reels, skip=1, sticky=0.3, noops=0, clip=False)
    kept = np.zeros((2, 2))
    for seed in range(400):
        console.reset(seed=seed)
        for action in (1, 2):
            console.step(dict.fromkeys(reels.possible_agents, action))
        first, second = (reels.asked[1][name] != 2 for name in reels.possible_agents)
        kept[int(first), int(second)] += 1
    share = kept / kept.sum()
    assert share[1].sum() == pytest.approx(0.3, abs=0.07) and share[:, 1].sum() == pytest.approx(0.3, abs=0.07)
    assert share[1, 1] == pytest.approx(0.09, abs=0.05)


def test_clipped_rewards_are_signs_and_the_score_stays() -> None:
    console = Console(Reels(), skip=4, sticky=0.0, noops=0, clip=True)
    console.reset(seed=0)
    assert console.step({"first_0": 2, "second_0": 0})[1] == {"first_0": 1.0, "second_0": 0.0}
    assert console.score == 8.0


@pytest.mark.full
def test_random_play_scores_what_is_published() -> None:
    # 148 in https://doi.org/10.1038/nature14236; 5 episodes of it vary by some 40.
    env = space_invaders_alone(num_envs=5, workers=0)
    values = play(env, random_actions(env.spec, 0), None, 5, 0)
    assert 60 < float(values["score"].mean()) < 300 and torch.equal(values["score"], values["return"])


@pytest.mark.parametrize(
    ("factory", "kwargs", "message"),
    [
        (space_invaders, {"n_agents": 3}, "expected 2 agents in atari/space_invaders"),
        (space_invaders_alone, {"n_agents": 2}, "expected 1 agents in gym/space_invaders"),
        (space_invaders, {"sticky": 1.0}, "expected sticky from 0 to below 1"),
        (space_invaders, {"skip": 0}, "expected skip to be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(factory: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factory(workers=0, **kwargs)


@pytest.mark.parametrize(("env", "algo"), [("atari/space_invaders", "mappo"), ("gym/space_invaders", "iql")])
def test_it_trains_and_its_policy_acts(tmp_path: Path, env: str, algo: str) -> None:
    folder = learn(tmp_path, env, algo, "env.max_steps=4")
    world = gcoord.make_env(env, workers=0)
    assert gcoord.load(folder).act(world.reset(0)).shape == (1, world.spec.n_agents)


def test_it_trains_from_the_command_line(tmp_path: Path) -> None:
    learn_by_command(tmp_path, "atari/space_invaders", "qmix", "env.max_steps=4", "env.workers=2")
