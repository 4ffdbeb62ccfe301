"""`make bench`: graphs, kernels, collection, stepping and training, each beside its peer, one after another; where a
CUDA device is present, all but stepping there too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent


ON_CPU: list[tuple[str, list[str]]] = [
    ("graphs", []),
    ("kernels", []),
    ("collection", []),
    ("stepping", []),
    ("training", []),
]
RESULTS = HERE / "results"
ON_CUDA: list[tuple[str, list[str]]] = [
    ("graphs", ["--device", "cuda"]),
    ("kernels", ["--device", "cuda"]),
    ("collection", ["--device", "cuda", "--num-envs", "4096", "32768", "--out", str(RESULTS / "collection-cuda.json")]),
    ("training", ["--device", "cuda", "--out", str(RESULTS / "training-cuda.json")]),
]


def plan(cuda: bool) -> list[tuple[str, list[str]]]:
    """Names of benchmarks and their arguments, in order."""
    return ON_CPU + (ON_CUDA if cuda else [])


def main() -> None:
    for name, given in plan(torch.cuda.is_available()):
        print(f"== {name} {' '.join(given[:2])}".rstrip(), flush=True)
        subprocess.run([sys.executable, str(HERE / f"{name}.py"), *given], check=True)


if __name__ == "__main__":
    main()
