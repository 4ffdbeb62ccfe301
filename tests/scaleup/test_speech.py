"""What is said is measured so that no policy passes that tells nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict

import gcoord
from gcoord import conf
from gcoord.data.playing import play, random_actions
from gcoord.scaleup.speech import WORLDS, Overheard, Speech, muted, told
from gcoord.spec import Continuous, Discrete, TeamSpec
from gcoord.trajectory import Outcome, observe

RNG = np.random.default_rng(5)
H = np.log2(3)


@pytest.fixture(autouse=True)
def drawn_anew():
    RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state


def counts(words: np.ndarray, size: int = 3) -> np.ndarray:
    """[E, T] words -> [E, W] how often."""
    return np.stack([(words == w).sum(1) for w in range(size)], 1).astype(float)


def balanced(episodes=300):
    return np.arange(episodes) % 3


def score(words, meant, size=3, name="speech_share"):
    return float(told(counts(words, size), meant, 3)[name].mean())


def test_a_code_that_tells_all_scores_all_of_it():
    meant = balanced()
    for code in ([0, 1, 2], [2, 0, 1], [5, 7, 1]):
        words = np.tile(np.array(code)[meant][:, None], (1, 10))
        assert score(words, meant, 10) == pytest.approx(1.0)
        assert score(words, meant, 10, "speech_information") == pytest.approx(H)
        assert score(words, meant, 10, "speech_bits") == pytest.approx(H)
        assert score(words, meant, 10, "speech_symbols") == pytest.approx(3.0)


def test_synonyms_tell_all_as_well():
    meant = balanced()
    words = meant[:, None] * 2 + RNG.integers(2, size=(300, 25))
    assert score(words, meant, 6) == pytest.approx(1.0, abs=0.01)
    assert score(words, meant, 6, "speech_symbols") == pytest.approx(6.0, abs=0.1)


def test_a_code_for_one_of_three_targets_is_worked_by_hand():
    meant = balanced(3000)
    words = np.tile((meant == 0).astype(int)[:, None], (1, 5))
    assert score(words, meant, name="speech_information") == pytest.approx(np.log2(3) - 2 / 3, abs=0.005)


SILENT = {
    "at random": lambda e, t: RNG.integers(3, size=(e, t)),
    "at random, one word an episode": lambda e, t: np.tile(RNG.integers(3, size=(e, 1)), (1, t)),
    "always the same": lambda e, t: np.zeros((e, t), int),
    "the time": lambda e, t: np.tile(np.arange(t) % 3, (e, 1)),
    "a habit of the seed": lambda e, t: np.sort(RNG.integers(3, size=(e, t)), 1),
}


@pytest.mark.parametrize("habit", SILENT)
def test_whoever_tells_nothing_scores_nothing(habit):
    """On average and, within chance, each time; the plain mutual information of few episodes is far above 0."""
    scores = [score(SILENT[habit](30, 25), RNG.integers(3, size=30)) for _ in range(40)]
    assert abs(np.mean(scores)) < 3 * np.std(scores) / np.sqrt(40) + 1e-9
    assert np.abs(scores).max() < 0.3


def test_without_the_correction_a_random_policy_would_pass():
    meant, words = RNG.integers(3, size=30), np.tile(RNG.integers(10, size=(30, 1)), (1, 25))
    share = counts(words, 10) / 25
    joint = np.eye(3)[meant].T @ share / 30
    plain = (joint * np.log2(np.where(joint > 0, joint / (joint.sum(1, keepdims=True) * joint.sum(0)), 1))).sum()
    assert plain > 0.25 and abs(score(words, meant, 10)) < plain / H


def test_one_target_leaves_nothing_to_be_told():
    assert score(np.zeros((20, 5), int), np.zeros(20, int)) == 0.0
    assert score(RNG.integers(3, size=(20, 5)), np.zeros(20, int)) == 0.0


class Talk:
    """Two agents a team: a speaker who sees one of three goals, and a listener who hears its last word."""

    def __init__(self, teams=40, length=6, continuous=False):
        space = Continuous((-1.0,) * 5, (1.0,) * 5) if continuous else Discrete(6)
        self.spec = TeamSpec(
            teams, 2, (6,), (space,) * 2, kinds=("speaker", "listener"), reward=("own",) * 2, max_steps=length
        )
        self.length, self.generator = length, torch.Generator()

    def reset(self, seed=None):
        self.generator.manual_seed(seed or 0)
        self.goal = torch.randint(3, (self.spec.num_envs,), generator=self.generator)
        self.time, self.said, self.over = 0, torch.zeros(self.spec.num_envs, 3), False
        return self._see()

    def _see(self):
        own = torch.zeros(self.spec.num_envs, 2, 6)
        own[:, 0, :3] = torch.nn.functional.one_hot(self.goal, 3)
        own[:, 1, 3:] = self.said
        return observe(own, kind=torch.tensor([0, 1]).expand(self.spec.num_envs, 2))

    def step(self, action):
        flags = torch.zeros(self.spec.num_envs, dtype=torch.bool)
        if self.over:
            self.goal = torch.randint(3, (self.spec.num_envs,), generator=self.generator)
            self.time, self.over = 0, False
            valid, done = flags, flags
        else:
            self.time += 1
            self.over = self.time == self.length
            valid, done = ~flags, ~flags if self.over else flags
        outcome = Outcome(
            reward=torch.zeros(self.spec.num_envs, 2), terminated=flags, truncated=done, valid=valid,
            metrics=TensorDict({}, [self.spec.num_envs]), batch_size=[self.spec.num_envs],
        )  # fmt: skip
        return self._see(), outcome

    def close(self):
        pass


SPEECH = Speech((0, 3), 3, (3, 6), speaker=0, listener=1, moves=2)


def code(seen, memory, key):
    """The goal's number as word, moves that tell nothing."""
    word = seen.own[..., :3].argmax(-1)
    return torch.randint(2, word.shape) + 2 * word, memory


def test_words_are_overheard_in_a_world_over_episodes():
    env = Overheard(Talk(), SPEECH)
    play(env, code, None, 120, 1)
    found = env.figures()
    assert len(found["speech_share"]) == 120 and np.mean(found["speech_share"]) == pytest.approx(1.0)


def test_a_random_policy_says_nothing_and_uses_every_word():
    env = Overheard(Talk(), SPEECH)
    play(env, random_actions(env.spec, 0), None, 240, 1)
    found = env.figures()
    assert abs(np.mean(found["speech_share"])) < 0.03 and np.mean(found["speech_symbols"]) == pytest.approx(3, abs=0.05)


def test_of_continuous_actions_the_largest_word_is_said():
    env = Overheard(Talk(continuous=True), SPEECH)

    def speak(seen, memory, key):
        return torch.cat([torch.full((*seen.alive.shape, 2), 0.9), 0.1 * seen.own[..., :3]], -1), memory

    play(env, speak, None, 120, 1)
    assert np.mean(env.figures()["speech_share"]) == pytest.approx(1.0)


def test_listeners_alone_are_muted():
    seen = Talk().reset(0)
    seen.own[:] = 1.0
    silent = muted(seen, SPEECH)
    assert (silent.own[:, 1, 3:] == 0).all() and (silent.own[:, 1, :3] == 1).all() and (silent.own[:, 0] == 1).all()
    assert (seen.own == 1).all()


@pytest.mark.parametrize("bad", [dict(meant=(3, 3)), dict(heard=(2, 1)), dict(words=1), dict(moves=0)])
def test_what_is_no_speech_is_refused(bad):
    with pytest.raises(ValueError, match=r"^expected "):
        Speech(**{"meant": (0, 3), "words": 3, "heard": (3, 6), **bad})


@pytest.mark.parametrize("name", ["simple_reference", "simple_speaker_listener"])
@pytest.mark.parametrize("continuous", [False, True])
def test_scripted_speakers_of_mpe_tell_all_and_random_ones_nothing(name, continuous):
    pytest.importorskip("mpe2")
    if f"mpe/{name}" not in conf.options_of("env"):
        pytest.skip(f"conf/env has no mpe/{name}")
    scores = {}
    for who in ("scripted", "random"):
        env = gcoord.make_env(f"mpe/{name}", num_envs=10, workers=0, continuous=continuous, max_cycles=5)
        try:
            heard = Overheard(env, WORLDS[f"mpe/{name}"])
            scripted = lambda seen, memory, key: (env.scripted(seen), memory)  # noqa: B023, E731
            play(heard, scripted if who == "scripted" else random_actions(env.spec, 0), None, 60, 1)
            scores[who] = float(np.mean(heard.figures()["speech_share"]))
        finally:
            env.close()
    assert scores["scripted"] == pytest.approx(1.0, abs=0.01) and abs(scores["random"]) < 0.25
