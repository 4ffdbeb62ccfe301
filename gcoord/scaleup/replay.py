"""An episode as compact JSON, for the report's page to draw and scrub through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcoord.scaleup.film import Scene, bounds, flat

# Whole numbers up to this stand for a place in the frame, so that a coordinate takes at most four digits.
GRID = 2000
# Numbers held for the edges of one episode, three an edge: about 0.6 MB of text.
EDGE_NUMBERS = 150_000


def replay(shots: Sequence[Scene], size: int, kinds: Sequence[str] = ("agent",), edges: int = EDGE_NUMBERS) -> Any:
    """The scenes of one episode as lists of whole numbers.

    Arguments:
        shots: rows of one episode, of `gcoord.scaleup.film.scenes`.
        size: agents in the team.
        kinds: names of the kinds.
        edges: numbers kept for edges (three an edge); where there are more, the most attended of each row are kept.

    Gives a dict: `n`; `kinds`; `kind` [N]; `placed`, whether the world has positions (else agents stand on a circle);
    `edges_left_out`, how many there was no room for; and `rows`, one dict a row: `step`, `earned`, `at` [2 N] in
    thousands of the frame's side, `dead` (slots), `things` [2 present], `heard` [3 E]: sender, receiver, attention
    from 0 to 9. Senders from N on are entities, numbered as in `things`. Raises ValueError without a row.
    """
    if not shots:
        raise ValueError("expected at least one row of an episode (got none)")
    box = bounds(list(shots))
    placed = box is not None
    per_row = max(edges // (3 * len(shots)), 1)
    rows, left_out = [], 0
    for shot in shots:
        row: dict[str, Any] = {"step": shot.step, "earned": round(shot.earned, 4)}
        row["at"] = _places(shot.position, box, size)
        dead = np.flatnonzero(~shot.alive)
        if len(dead):
            row["dead"] = dead.tolist()
        number = np.arange(size)
        if shot.entity_position is not None and box is not None:
            there = np.ones(len(shot.entity_position), bool) if shot.present is None else shot.present
            row["things"] = _places(shot.entity_position[there], box, int(there.sum()))
            number = np.concatenate([number, size - 1 + np.cumsum(there)])
        pairs, weights = shot.edges, shot.weights
        if len(pairs):
            # Entities without a place cannot be drawn; whoever hears them is still shown.
            drawn = pairs[:, 0] < len(number)
            pairs, weights = pairs[drawn], weights[drawn]
        if len(pairs) > per_row:
            left_out += len(pairs) - per_row
            kept = np.sort(np.argsort(-weights, kind="stable")[:per_row])
            pairs, weights = pairs[kept], weights[kept]
        if len(pairs):
            shown = np.rint(np.clip(weights, 0, 1) * 9).astype(int)
            row["heard"] = np.stack([number[pairs[:, 0]], pairs[:, 1], shown], 1).ravel().tolist()
        rows.append(row)
    kind = shots[0].kind.tolist()
    return {
        "n": size,
        "kinds": list(kinds),
        "kind": kind,
        "placed": placed,
        "edges_left_out": left_out,
        "rows": rows,
    }


def _places(position: Any, box: Any, count: int) -> list[int]:
    """Places in the frame, x and y in turn, y upwards; on a circle where the world has none."""
    if box is None or position is None:
        angle = 2 * np.pi * np.arange(count) / max(count, 1)
        unit = 0.5 + 0.42 * np.stack([np.sin(angle), np.cos(angle)], 1)
    else:
        low, high = np.array([box[0][0], box[1][0]]), np.array([box[0][1], box[1][1]])
        # What stands in the slots of the dead may be anything.
        unit = np.nan_to_num((flat(position) - low) / (high - low), nan=0.0, posinf=0.0, neginf=0.0)
    return np.rint(np.clip(unit, 0, 1) * GRID).astype(int).ravel().tolist()  # type: ignore[no-any-return]
