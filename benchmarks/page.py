"""Makes docs/benchmarks.md from the files in benchmarks/results/: `python benchmarks/page.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Made from `benchmarks/results/*.json` by `python benchmarks/page.py`; `make bench` measures anew. Ours and the peer run
in turn on the same machine. Times vary with what else a machine does: read the ratios.
"""


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for name, title, body in (
        ("training", "Training, beside BenchMARL", training),
        ("kernels", "Relation kernel, beside PyG's layers", kernels),
        ("graphs", "Graph building, beside brute force", graphs),
        ("collection", "Collection, beside the bare simulator", collection),
    ):
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            parts.append(f"## {title}\n\n{measured_on(result)}\n\n{body(result)}")
    return "\n".join(parts)


def measured_on(result: dict[str, Any]) -> str:
    versions = result.get("versions", {})
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version != "not installed")
    hardware = result.get("hardware", {})
    where = ", ".join(f"{key} {value}" for key, value in hardware.items()) if isinstance(hardware, dict) else hardware
    return f"{result.get('date', '')} · {where} · threads {result.get('threads', '?')} · {shown}"


def table(head: list[str], rows: list[list[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def training(result: dict[str, Any]) -> str:
    rows = [
        [r["who"], r["seed"], f"{r['frames_per_second']:,.0f}", f"{r['return_per_agent']:.3f}", f"{r['success']:.3f}"]
        for r in result["runs"]
    ]
    return table(["who", "seed", "frames/s", "return per agent", "success"], rows)


def kernels(result: dict[str, Any]) -> str:
    rows = [
        [r["graphs"], r["agents"], r["neighbours"], r["layout"], *(f"{r[k]:.2f}" for k in ("forward", "both"))]
        for r in result["sizes"]
    ]
    head = ["graphs", "agents", "neighbours", "computed as", "forward: times as fast", "forward and backward"]
    return table(head, rows)


def graphs(result: dict[str, Any]) -> str:
    rows = [
        [
            r["graphs"], r["agents"], r["neighbours"], r["layout"], f"{r['nearest']['min_ms']:.1f}",
            f"{r['times_faster_than_all_pairs']:.1f}", f"{r['times_faster_than_brute_force']:.1f}",
            f"{r['kernel_forwards']:.2f}",
        ]
        for r in result["neighbours"]
    ]  # fmt: skip
    head = ["graphs", "agents", "k", "points", "ms", "times as fast as our all pairs", "as plain brute force"]
    return table([*head, "in kernel forwards"], rows)


def collection(result: dict[str, Any]) -> str:
    rows = [
        [r["world"], r["num_envs"], r["n_agents"], name, f"{rate:,.0f}", f"{rate / r['steps_per_second']['bare']:.2f}"]
        for r in [*result["vmas"], *([result["pursuit"]] if "pursuit" in result else [])]
        for name, rate in r["steps_per_second"].items()
    ]
    return table(["world", "teams", "agents", "side", "environment steps/s", "of the bare simulator"], rows)


if __name__ == "__main__":
    PAGE.write_text(page())
