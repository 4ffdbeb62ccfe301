"""Makes docs/benchmarks.md from the files in benchmarks/results/: `python benchmarks/page.py`."""

from __future__ import annotations

import json
import statistics
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
        ("training", "Training speed, beside BenchMARL", training),
        ("learning", "Learning, beside BenchMARL", training),
        ("kernels", "Relation kernel, beside PyG's layers", kernels),
        ("graphs", "Graph building, beside brute force", graphs),
        ("collection", "Collection, beside the bare simulator", collection),
        ("stepping", "Worker processes, beside one process and three other ways", stepping),
        ("natives_points", "Native spread beside mpe2, and target beside the same on mpe2's engine", natives),
        ("natives_rooms", "Native waterworld and prison, beside their originals", natives),
        ("natives_grid", "Native mapf and skirmish, and mapf beside POGEMA", grid),
    ):
        for suffix, where in (("", ""), ("-cuda", ", on a GPU")):
            path = RESULTS / f"{name}{suffix}.json"
            if path.exists():
                result = json.loads(path.read_text())
                parts.append(f"## {title}{where}\n\n{measured_on(result)}\n\n{body(result)}")
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
    """Over seeds, then each run; the peer at every step size of Adam that it was tried with."""
    over_seeds = [
        [
            row["who"], _lr(row), len(row["seeds"]), f"{statistics.mean(row['frames']):,.0f}", _rate(row),
            *(f"{row[k]['value']:.3f} ({row[k]['ci_low']:.3f} to {row[k]['ci_high']:.3f})" for k in METRICS),
        ]
        for row in result.get("summary", [])
    ]  # fmt: skip
    runs = [[r["who"], _lr(r), r["seed"], _rate(r), *(f"{r[k]:.3f}" for k in METRICS)] for r in result["runs"]]
    parts = [table(["who", "lr", "seed", "frames/s", "return per agent", "success"], runs)]
    if over_seeds:
        head = ["who", "lr", "seeds", "frames", "frames/s", "return per agent (95 % interval)", "success"]
        parts.insert(0, table(head, over_seeds) + "\nEach run:\n")
    return "\n".join(parts)


METRICS = ("return_per_agent", "success")


def _lr(row: dict[str, Any]) -> str:
    return f"{row['lr']:g}" if row.get("lr") is not None else "its own"


def _rate(row: dict[str, Any]) -> str:
    return f"{row['frames_per_second']:,.0f}" if row["frames_per_second"] else "-"


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


STEPPING = """Environment steps a second, summed over {copies} copies; medians of {runs} runs in turn. Fragments:
{workers} of our workers act and step by themselves, 25 rows at a time; step: the same workers, one round trip a step.
All sides step the same worlds. Ratios are means over runs of neighbouring measurements, with their one-sided 95 % lower
bound. By processor time: steps over what the parent's thread and the busiest worker spent, the time on free cores.
"""


def stepping(result: dict[str, Any]) -> str:
    """Every way's speed, and what our fragments are to one process and to the best peer."""
    rows = []
    for case in result["cases"]:
        for clock in ("clock", "processor_time"):
            by = case[clock]
            speeds = {name: f"{statistics.median(rates):,.0f}" for name, rates in by["steps_per_second"].items()}
            best = by.get("to_best_peer")
            rows.append(
                [
                    case["world"], case["n_agents"], case["who"], clock.replace("_", " "),
                    *(speeds.get(name, "-") for name in SIDES),
                    _ratio(by["to_one_process"]),
                    f"{_ratio(best)}, {best['peer']}" if best else "-",
                ]
            )  # fmt: skip
    head = ["world", "agents", "acting", "by", *SIDES, "fragments to one process", "to the best peer"]
    runs = len(result["cases"][0]["clock"]["steps_per_second"]["fragments"])
    peers = result["cases"][0]["versions"]
    told = f"\nPeers: {', '.join(f'{name} {version}' for name, version in peers.items())}.\n" if peers else ""
    return STEPPING.format(runs=runs, **result) + "\n" + table(head, rows) + told


SIDES = ("one process", "step", "fragments", "supersuit", "torchrl", "pipes")


def _ratio(ratio: dict[str, Any]) -> str:
    return f"{ratio['mean']:.2f} (from {ratio['lower_bound']:.2f})"


NATIVES = "Agent-steps a second of one core, random actions; all teams of ours at once, the original's one team.\n\n"


def natives(result: dict[str, Any]) -> str:
    """Every native world's speed, and what it is to its original's, measured in turn."""
    rows = []
    for r in result["speed"] if "speed" in result else result["rows"]:
        theirs = r.get("original", r.get("python"))
        ratio = f"{r['ratio']:.0f} ({r['least_ratio']:.0f})" if theirs else "-"
        original = f"{theirs:,.0f}" if theirs else "-"
        rows.append([r["world"], r["n_agents"], r["num_envs"], f"{r['native']:,.0f}", original, ratio])
    head = ["world", "agents", "teams", "ours", "original", "times as fast (the least of the blocks)"]
    return NATIVES + table(head, rows)


def grid(result: dict[str, Any]) -> str:
    """The same for the worlds on grids; POGEMA by each of its rules for who arrives."""
    rows = [
        [r["world"], r["n_agents"], r["num_envs"], f"{r['agent_steps']:,.0f}", "-", "-"] for r in result["alone"]
    ] + [
        [
            f"native/mapf, on_target={r['on_target']}", r["n_agents"], r["num_envs"], f"{r['median']['ours']:,.0f}",
            f"{r['median']['pogema']:,.0f}", f"{r['times_as_fast']:.1f} ({r['times_as_fast_at_best']:.1f})",
        ]
        for r in result.get("beside_pogema", [])
    ]  # fmt: skip
    return NATIVES + table(["world", "agents", "teams", "ours", "POGEMA", "times as fast (of the fastest)"], rows)


if __name__ == "__main__":
    PAGE.write_text(page())
