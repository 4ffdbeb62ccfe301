"""What is said carries what should be known: words against what their speakers alone know, less what chance gives.

Measures of learnt language pass untrained policies easily (Lowe et al., On the Pitfalls of Measuring Emergent
Communication, https://arxiv.org/abs/1903.05168). Here whole episodes are shuffled: what words share with the targets of
other episodes is what chance, length of episodes and habits of speech give, and is taken off. A policy that talks at
random, says always the same, or tells the time scores 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gcoord.envs.team import TeamEnv
from gcoord.spec import Discrete
from gcoord.trajectory import Observation, Outcome

Values = NDArray[np.float64]
SHUFFLES = 200


@dataclass(frozen=True)
class Speech:
    """Where words and what they should tell stand in what agents see and do.

    Arguments:
        meant: first column of `own`, and the one after the last, in which a speaker sees what should be known; the
            largest is meant (a one-hot code, a colour).
        words: number of words.
        heard: the columns of `own` in which a listener hears the last word.
        speaker, listener: kinds that speak and that listen; None: all.
        moves: numbered actions are `move + moves * word` (1: the word alone); of continuous ones, the last `words`
            components of the kind's are the words, and the largest is said.
    """

    meant: tuple[int, int]
    words: int
    heard: tuple[int, int]
    speaker: int | None = None
    listener: int | None = None
    moves: int = 1

    def __post_init__(self) -> None:
        for name in ("meant", "heard"):
            first, last = getattr(self, name)
            if not 0 <= first < last:
                raise ValueError(
                    f"expected {name} as the first column and the one after the last (got {(first, last)})"
                )
        if self.words < 2 or self.moves < 1:
            raise ValueError(f"expected at least two words and one move (got {self.words} and {self.moves})")


# Of worlds whose every team draws its own goal; VMAS's draw one for the whole batch, which nobody need tell.
WORLDS = {
    "mpe/simple_reference": Speech((8, 11), 10, (11, 21), moves=5),
    "mpe/simple_speaker_listener": Speech((0, 3), 3, (8, 11), speaker=0, listener=1),
}


def muted(seen: Observation, speech: Speech) -> Observation:
    """The same observation without the words that listeners hear."""
    own = seen.own.clone()
    first, last = speech.heard
    listens = seen.alive if speech.listener is None else seen.kind == speech.listener
    own[..., first:last] = torch.where(listens.unsqueeze(-1), 0.0, own[..., first:last])
    out = seen.clone(recurse=False)
    out.own = own
    return out


@dataclass
class Overheard:
    """A world that notes what is said in it; everything else is the world's.

    `figures` are of the episodes that have ended.
    """

    env: TeamEnv
    speech: Speech
    _words: Tensor | None = None
    _meant: Tensor | None = None
    _speaks: Tensor | None = None
    _seen: Observation | None = None
    _ended: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, seed: int | None = None) -> Observation:
        self._seen = self.env.reset(seed)
        self._begin(self._seen, torch.ones(self._seen.alive.shape[0], dtype=torch.bool))
        return self._seen

    def step(self, action: Tensor) -> tuple[Observation, Outcome]:
        seen = self._seen
        assert seen is not None and self._words is not None and self._speaks is not None
        following, outcome = self.env.step(action)
        said = self.word(seen, action)
        row = outcome.valid.unsqueeze(-1) & seen.alive & self._speaks
        one = torch.nn.functional.one_hot(said.clamp(0, self.speech.words - 1), self.speech.words) * row.unsqueeze(-1)
        self._words += one.cpu()
        done = (outcome.terminated | outcome.truncated).cpu()
        if done.any():
            assert self._meant is not None
            self._ended.append((self._words[done].clone(), self._meant[done].clone(), self._speaks[done].cpu()))
        # The row after the last resets: what is seen then begins the next episode.
        if (fresh := ~outcome.valid.cpu()).any():
            self._begin(following, fresh)
        self._seen = following
        return following, outcome

    def word(self, seen: Observation, action: Tensor) -> Tensor:
        """[B, N] long: the word of each agent's action."""
        kinds = self.env.spec.actions
        if self.env.spec.discrete:
            return torch.as_tensor(action // self.speech.moves).cpu()
        said = torch.zeros(action.shape[:-1], dtype=torch.long, device=action.device)
        for kind, space in enumerate(kinds):
            if isinstance(space, Discrete):
                here = (action[..., 0].round().long() // self.speech.moves).to(said)
            else:
                here = action[..., max(space.n - self.speech.words, 0) : space.n].argmax(-1)
            said = torch.where(seen.kind == kind, here, said)
        return said.cpu()

    def _begin(self, seen: Observation, where: Tensor) -> None:
        first, last = self.speech.meant
        meant = seen.own[..., first:last].argmax(-1).cpu()
        speaks = seen.alive if self.speech.speaker is None else seen.alive & (seen.kind == self.speech.speaker)
        shape = (*meant.shape, self.speech.words)
        if self._words is None or self._meant is None or self._speaks is None:
            self._words, self._meant, self._speaks = torch.zeros(shape), meant, speaks.cpu()
            return
        self._words[where], self._meant[where], self._speaks[where] = 0.0, meant[where], speaks.cpu()[where]

    def figures(self) -> dict[str, list[float]]:
        """See `told`; over every speaker's slot in turn."""
        if not self._ended:
            return {}
        words, meant, speaks = (torch.cat(parts).numpy() for parts in zip(*self._ended, strict=True))
        targets = self.speech.meant[1] - self.speech.meant[0]
        slots = [i for i in range(meant.shape[1]) if speaks[:, i].any()]
        by_slot = []
        for i in slots:
            spoke = speaks[:, i] & (words[:, i].sum(-1) > 0)
            by_slot.append(told(words[spoke, i].astype(np.float64), meant[spoke, i], targets))
        return {name: np.concatenate([one[name] for one in by_slot]).tolist() for name in by_slot[0]}


def told(words: Values, meant: NDArray[np.int64], targets: int, seed: int = 0) -> dict[str, Values]:
    """Figures of one speaker, each with a value for every episode, whose mean it is.

    Arguments:
        words: [E, W] how often each word was said in each episode.
        meant: [E] the target of each episode, from 0 to `targets` - 1.

    speech_information: adjusted mutual information between word and target in bits,

        H (I - C) / (H - C),   I = sum p(g, w) log2 p(g, w) / (p(g) p(w)),   H = entropy of the targets,

    where C is the mean of I over shufflings of the episodes' targets (Vinh et al. 2010,
    https://www.jmlr.org/papers/v11/vinh10a.html): 0 by chance, H where every target has words of its own.
    speech_share: the same as a share of H. speech_bits: entropy of the words said. speech_symbols: 2 to that power, the
    number of words in equal use. Nothing can be told where all targets are one (H = 0): information and share are 0.
    """
    rng = np.random.default_rng(seed)
    share = words / words.sum(-1, keepdims=True)
    said = share.mean(0)
    bits = -(said * np.log2(np.where(said > 0, said, 1.0))).sum()
    one_hot = np.eye(targets)[meant]
    goals = one_hot.mean(0)
    entropy = -(goals * np.log2(np.where(goals > 0, goals, 1.0))).sum()
    chance = float(np.mean([_information(share, rng.permutation(one_hot)).mean() for _ in range(SHUFFLES)]))
    by_episode = np.zeros(len(meant))
    # Where even chance tells all (each episode's words are its own), nothing is left to be told apart.
    if entropy - chance > 1e-9:
        by_episode = (_information(share, one_hot) - chance) / (entropy - chance)
    every = np.ones(len(meant))
    return {
        "speech_information": by_episode * entropy,
        "speech_share": by_episode,
        "speech_bits": bits * every,
        "speech_symbols": 2**bits * every,
    }


def _information(share: Values, one_hot: Values) -> Values:
    """[E]: what each episode adds to the mutual information in bits; their mean is it."""
    joint = one_hot.T @ share / len(share)  # [G, W]
    independent = joint.sum(1, keepdims=True) * joint.sum(0)
    ratio = np.log2(np.where(joint > 0, joint, 1.0) / np.where(joint > 0, independent, 1.0))
    return (share * (one_hot @ ratio)).sum(-1)  # type: ignore[no-any-return]
