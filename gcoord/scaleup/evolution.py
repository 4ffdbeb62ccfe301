"""Evolution along a curriculum of sizes: parallel runs at each size, of which the best go on to the next."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gcoord.callbacks import write_json
from gcoord.run_folder import read_config, refuse_taken
from gcoord.scaleup.jobs import Job, do_all
from gcoord.scaleup.trainings import Training, curve, spent, training

EVALUATIONS = 10


@dataclass(frozen=True)
class Evolution:
    """Evolutionary population curriculum: Long et al., https://arxiv.org/abs/2003.10423.

    At the first size `population` times `children` runs are trained, the best `population` go on; at each next size
    every one of these is fine-tuned `children` times, with other seeds, and again the best go on. The best is whoever
    earned most per agent in greedy episodes at that size: whoever adapts to the larger team, not whoever was best in
    the small one.

    Departure: in the paper agents have weights of their own, and sets of agents are mixed and matched to make larger
    teams. Here all agents of a kind share theirs, so there is nothing to mix, and children differ by what they meet.

    Arguments:
        population: runs that go on. children: of each.
        processes: that share the training, of one thread each.

    Raises ValueError for numbers that cannot be.
    """

    population: int = 2
    children: int = 2
    processes: int = 2

    def __post_init__(self) -> None:
        if min(self.population, self.children, self.processes) < 1:
            raise ValueError(
                "expected an evolution of population, children and processes of at least 1 (got "
                f"{self.population}, {self.children} and {self.processes})"
            )

    def check(self, cfg: DictConfig, sizes: Sequence[int], folder: Path) -> None:
        """Raises ValueError where a configuration cannot be evolved."""
        if len(sizes) < 2:
            raise ValueError(f"expected n_agents=[...] with at least two sizes to evolve along (got {list(sizes)})")
        if cfg.get("curriculum") is not None or cfg.init_from is not None:
            raise ValueError("expected evolution without curriculum and init_from (got either)")
        refuse_taken(folder)

    def run(
        self,
        cfg: DictConfig,
        names: Mapping[str, str],
        sizes: Sequence[int],
        folder: Path,
        say: Callable[[str], None] = print,
    ) -> Path:
        """Trains every generation, `frames` of the configuration each; what was trained before is gone on with. Returns
        the folder, in which then lies the best of the last generation, a run like any other.

        Raises RuntimeError where a whole generation fails.
        """
        self.check(cfg, sizes, folder)
        parents: list[Path | None] = [None]
        told = []
        everyone: list[Training] = []
        for generation, size in enumerate(sizes):
            root = folder / "generations" / f"{generation}-n{size}"
            births = self.children if generation else self.population * self.children
            trainings = [
                training(
                    root, cfg, names, size, int(cfg.frames), {"seed": int(cfg.seed) + number * births + child},
                    EVALUATIONS, parent,
                )
                for number, parent in enumerate(parents)
                for child in range(births)
            ]  # fmt: skip
            failures = do_all([Job(one) for one in trainings], self.processes, say)
            grown = [one for one in trainings if one.is_finished()]
            if not grown:
                raise RuntimeError(f"expected a run at {size} agents that ends (got: {failures[0].reason})")
            everyone += grown
            ranked = sorted(grown, key=fitness, reverse=True)
            parents = [Path(one.folder) for one in ranked[: self.population]]
            told.append(
                {
                    "n_agents": size,
                    "runs": {Path(one.folder).name: fitness(one) for one in ranked},
                    "go_on": [parent.name for parent in parents if parent is not None],
                    "failed": [failure.reason for failure in failures],
                }
            )
            write_json(folder / "evolution.json", told)
            say(f"{size} agents: {ranked[0].words} is the best of {len(ranked)}, {fitness(ranked[0]):.3f} per agent")
        best = parents[0]
        assert best is not None
        _crown(best, folder, everyone)
        return folder


def fitness(one: Training) -> float:
    """The best greedy return per agent along a training, from its first step on."""
    return max(figures["return_per_agent"] for frames, figures in curve(Path(one.folder)) if frames > 0)


def _crown(best: Path, folder: Path, everyone: Sequence[Training]) -> None:
    """Copies a run to where the evolution lies; what the whole population was trained for counts as its cost."""
    for name in ("policy.safetensors", "policy.json", "metrics.csv", "training.log", "start.json"):
        if (best / name).is_file():
            shutil.copy2(best / name, folder / name)
    shutil.copytree(best / "checkpoints", folder / "checkpoints", dirs_exist_ok=True)
    trained = [spent(Path(one.folder)) for one in everyone]
    sizes = [int(one.cfg["n_agents"]) for one in everyone]
    summary = OmegaConf.to_container(OmegaConf.load(best / "summary.json"))
    assert isinstance(summary, dict)
    here = [one.here for one in trained]
    frames = {"frames": sum(here), "agent_steps": sum(n * size for n, size in zip(here, sizes, strict=True))}
    write_json(folder / "summary.json", {**summary, **frames})
    cfg = read_config(best)
    cfg.init_from = None
    # Last: a folder with a configuration is a run.
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
