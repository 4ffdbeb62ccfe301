"""An episode as a film: the world, who hears whom, and how much each is attended to."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gcoord.data.tallies import Keys
from gcoord.envs.team import TeamEnv
from gcoord.models.agent import Agent, Features
from gcoord.scaleup.report import COLORS
from gcoord.trajectory import Observation

Image = NDArray[np.uint8]


@dataclass
class Scene:
    """One row of one team, ready to be drawn.

    position [N, P] and entity_position [M, P] (None where there are none), alive [N], kind [N], present [M]; edges:
    pairs (sender, receiver), senders numbered agents first, [E, 2], and weights [E] between 0 and 1; picture [H, W, 3]
    of the world itself and its extent (left, right, bottom, top) in the positions' units, where the world draws itself.
    """

    step: int
    earned: float
    position: NDArray[Any] | None
    alive: NDArray[np.bool_]
    kind: NDArray[np.int64]
    entity_position: NDArray[Any] | None
    present: NDArray[np.bool_] | None
    edges: NDArray[np.int64]
    weights: NDArray[Any]
    picture: Image | None = None
    extent: tuple[float, float, float, float] | None = None


@torch.no_grad()
def scenes(env: TeamEnv, agent: Agent, seed: int, limit: int = 1000) -> Iterator[Scene]:
    """The first team's greedy episode, row by row, to its end or `limit` rows."""
    seen = env.reset(seed)
    device = seen.own.device
    memory = agent.body.initial((env.spec.num_envs,), env.spec.n_agents, device)
    keys = Keys(seed, env.spec.num_envs)
    earned, done = 0.0, False
    for step in range(limit):
        key = keys.take(device)
        features = agent.body(seen, memory, key=key, attention=True)
        yield scene(env, seen, features, step, earned)
        if done:
            return
        acted = agent.act(seen, memory, key=key, greedy=True)
        memory = acted.memory
        following, outcome = env.step(acted.action)
        rewards = outcome.reward[0][seen.alive[0]]
        earned += float(rewards.mean() if env.spec.shared_reward else rewards.sum()) if len(rewards) else 0.0
        seen, done = following, bool(outcome.terminated[0] | outcome.truncated[0])


def scene(env: TeamEnv, seen: Observation, features: Features, step: int, earned: float) -> Scene:
    """What is to be drawn of the first team."""
    edges, weights = heard(features)
    picture, extent = env.picture() if hasattr(env, "picture") else (None, None)

    def first(x: Tensor | None) -> Any:
        return None if x is None else x[0].cpu().numpy()

    return Scene(
        step,
        earned,
        first(seen.position),
        first(seen.alive),
        first(seen.kind),
        first(seen.entity_position),
        first(seen.entity_present),
        edges,
        weights,
        picture,
        extent,
    )


def heard(features: Features) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The first team's edges (sender, receiver) [E, 2], and the attention each got [E]: of the last round, mean over
    heads, as a share of the receiver's most attended sender. Without attention every edge weighs 1."""
    graph = features.graph[:1]
    mask = graph.mask[0]  # [N, K]
    receiver, slot = mask.nonzero(as_tuple=True)
    sender = slot if graph.index is None else graph.index[0, receiver, slot]
    weights = torch.ones(len(receiver))
    if features.attention:
        attention = features.attention[-1][0].mean(0)[:, : mask.shape[-1]]  # [N, K], oneself comes last
        most = torch.where(mask, attention, 0.0).amax(-1, keepdim=True).clamp(min=1e-12)
        weights = (attention / most)[receiver, slot].detach().float()
    return torch.stack([sender, receiver], -1).cpu().numpy(), weights.cpu().numpy()


def draw(shots: list[Scene], title: str, size: float = 5.0, dpi: int = 100) -> Iterator[Image]:
    """Each scene as [H, W, 3] bytes, all in one frame of reference."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    box = bounds(shots)
    figure = Figure(figsize=(size, size), dpi=dpi, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ax = figure.subplots()
    for shot in shots:
        ax.clear()
        ax.set_title(f"{title}\nstep {shot.step}, return so far {shot.earned:.2f}", fontsize=9)
        ax.set_aspect("equal")
        ax.tick_params(labelsize=7)
        if shot.picture is not None:
            height, width = shot.picture.shape[:2]
            extent = shot.extent or (0.0, float(width), float(height), 0.0)
            ax.imshow(shot.picture, extent=extent, aspect="equal", cmap="gray")
            ax.set(xlim=extent[:2], ylim=extent[2:])
        if shot.position is not None and box is not None:
            if shot.picture is None:
                ax.set(xlim=box[0], ylim=box[1])
            places = flat(shot.position)
            if shot.entity_position is not None:
                things = flat(shot.entity_position)
                there = np.ones(len(things), bool) if shot.present is None else shot.present
                ax.scatter(things[there, 0], things[there, 1], marker="s", s=28, color="0.65", zorder=1)
                places = np.concatenate([places, things])
            if len(shot.edges):
                ways = list(places[shot.edges])
                if shot.picture is not None:
                    # Pictures may be dark: each edge has a light one under it.
                    under = [(1.0, 1.0, 1.0, 0.1 + 0.5 * weight) for weight in shot.weights]
                    ax.add_collection(LineCollection(ways, linewidths=1.5 + 2.2 * shot.weights, colors=under, zorder=2))
                lines = LineCollection(
                    ways,
                    linewidths=0.3 + 2.2 * shot.weights,
                    colors=[(0.2, 0.2, 0.2, 0.15 + 0.5 * weight) for weight in shot.weights],
                    zorder=2,
                )
                ax.add_collection(lines)
            colors = np.array(COLORS)[shot.kind % len(COLORS)]
            agents = flat(shot.position)[shot.alive]
            ax.scatter(
                agents[:, 0],
                agents[:, 1],
                s=60,
                c=list(colors[shot.alive]),
                edgecolors="white",
                linewidths=0.7,
                zorder=3,
            )
        elif shot.picture is None:
            ax.text(0.5, 0.5, "this world has neither positions nor pictures", ha="center", transform=ax.transAxes)
        canvas.draw()
        yield np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def flat(position: NDArray[Any]) -> NDArray[Any]:
    """Positions in the plane: the first two coordinates; a single one is drawn along a line."""
    return position[:, :2] if position.shape[1] > 1 else np.concatenate([position, np.zeros_like(position)], 1)


def bounds(shots: list[Scene]) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The square that holds everyone at any time, with a margin; None without positions."""
    seen = [flat(shot.position)[shot.alive] for shot in shots if shot.position is not None]
    seen += [
        flat(shot.entity_position)[slice(None) if shot.present is None else shot.present]
        for shot in shots
        if shot.entity_position is not None
    ]
    if not any(map(len, seen)):
        return None
    every = np.concatenate(seen)
    low, high = every.min(0), every.max(0)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2 * 1.08, 1e-3)
    return (middle[0] - half, middle[0] + half), (middle[1] - half, middle[1] + half)


def film(env: TeamEnv, agent: Agent, path: Path, seed: int, title: str, fps: int = 12, limit: int = 300) -> Path:
    """Writes the first team's greedy episode as MP4 where imageio-ffmpeg is installed, else as GIF; returns the file.

    Arguments:
        env: one team is drawn; worlds with a method `picture() -> (image, extent)` are drawn over it.
        path: where to, without suffix.
        limit: rows at most; of longer episodes the first are shown.
    """
    shots = list(scenes(env, agent, seed, limit))
    images = draw(shots, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix tells ffmpeg what to write, so the file is made aside under a name that keeps it.
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        if importlib.util.find_spec("imageio_ffmpeg") is not None:
            out = path.with_name(f"{path.name}.mp4")
            import imageio.v2 as imageio

            made = Path(aside) / out.name
            writer: Any
            with imageio.get_writer(made, fps=fps, macro_block_size=2) as writer:
                for image in images:
                    writer.append_data(image)
        else:
            from PIL import Image as Pillow

            out = path.with_name(f"{path.name}.gif")
            made = Path(aside) / out.name
            first, *rest = [Pillow.fromarray(image).quantize(64) for image in images]
            first.save(made, save_all=True, append_images=rest, duration=1000 // fps, loop=0)
        os.replace(made, out)
    return out
