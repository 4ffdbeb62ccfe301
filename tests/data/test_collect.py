"""Promises of collecting and playing: figures of episodes are what happened, rows have keys of their own."""

import pytest
import torch
from tensordict import TensorDict

import gcoord
from gcoord.data.collect import Collector
from gcoord.data.playing import play, random_actions
from gcoord.data.tallies import Episodes, Keys
from gcoord.spec import Discrete, TeamSpec
from gcoord.trajectory import Outcome, observe

SPEC = TeamSpec(
    num_envs=2,
    n_agents=2,
    own=(1,),
    actions=(Discrete(2),),
    metrics={"worst": "any", "seen": "any", "last": "last", "all": "sum", "mean": "mean"},
)


def rows(values, ends, valid):
    """Figures of the episodes that end, by row, of teams whose every metric has the same values [T, B]."""
    episodes, ended = Episodes(SPEC, "cpu"), []
    seen = observe(torch.zeros(2, 2, 1))
    for value, end, now in zip(torch.tensor(values), torch.tensor(ends), torch.tensor(valid), strict=True):
        outcome = Outcome(
            reward=torch.zeros(2, 2),
            terminated=end,
            truncated=torch.zeros_like(end),
            valid=now,
            metrics=TensorDict(dict.fromkeys(SPEC.metrics, value), [2]),
            batch_size=[2],
        )
        done, figures = episodes.add(seen, outcome)
        ended += [{name: float(v[b]) for name, v in figures.items()} for b in range(2) if done[b]]
    return ended, episodes


def test_any_is_the_largest_value_of_the_episode_even_where_all_are_negative():
    ended, episodes = rows(
        [[-3.0, -1.0], [-2.0, -5.0], [9.0, -7.0], [-8.0, -6.0]],
        [[False, False], [True, False], [False, False], [True, True]],
        [[True, True], [True, True], [False, True], [True, True]],
    )
    # The reset row's 9 counts nowhere, nor does the first episode's -2 in the second.
    assert [e["worst"] for e in ended] == [-2, -8, -1]
    assert [e["last"] for e in ended] == [-2, -8, -6]
    assert [e["all"] for e in ended] == [-5, -8, -19]
    assert [e["mean"] for e in ended] == [-2.5, -8, -4.75]
    # Nothing of an ended episode stays, and what stays can be saved and gone on with.
    again = Episodes(SPEC, "cpu")
    again.load_state_dict(episodes.state_dict())
    outcome = Outcome(
        reward=torch.zeros(2, 2),
        terminated=torch.ones(2, dtype=torch.bool),
        truncated=torch.zeros(2, dtype=torch.bool),
        valid=torch.ones(2, dtype=torch.bool),
        metrics=TensorDict({name: torch.tensor([-4.0, 4.0]) for name in SPEC.metrics}, [2]),
        batch_size=[2],
    )
    _, figures = again.add(observe(torch.zeros(2, 2, 1)), outcome)
    assert all(figures[name].tolist() == [-4, 4] for name in SPEC.metrics)


def test_every_row_of_every_team_has_a_key_of_its_own_and_playing_counts_as_collecting_does():
    env = gcoord.make_env("native/meet", n_agents=2, num_envs=3)
    heard = []

    def act(seen, memory, key):
        heard.append(key)
        return random_actions(env.spec, 0)(seen, memory, key)

    play(env, act, None, episodes=3, seed=7)
    keys = torch.stack(heard)
    assert len(keys.unique()) == keys.numel()
    counted = Keys(7, 3)
    assert all(torch.equal(counted.take("cpu"), row) for row in keys)
    collector = Collector(gcoord.make_env("native/meet", n_agents=2, num_envs=3), 7)
    assert torch.equal(collector.keys.peek("cpu"), keys[0])
    collector.keys.take("cpu")
    assert torch.equal(collector.keys.peek("cpu"), keys[1])


@pytest.mark.parametrize("seed", [0, 8])
def test_other_seeds_have_other_keys(seed):
    assert not set(Keys(seed, 64).take("cpu").tolist()) & set(Keys(seed + 1, 64).take("cpu").tolist())
