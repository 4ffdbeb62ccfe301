"""Few cells in which every two choices that go together meet at least once (a covering array of strength two)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Cell = dict[str, Any]
Pair = tuple[tuple[str, Any], tuple[str, Any]]


def pairs_of(cell: Mapping[str, Any], order: Sequence[str]) -> list[Pair]:
    """Every two of a cell's choices, in the order of the factors."""
    chosen = [(name, cell[name]) for name in order if name in cell]
    return list(itertools.combinations(chosen, 2))


def cover(factors: Mapping[str, Sequence[Any]], allowed: Callable[[Cell], bool]) -> list[Cell]:
    """Cells, each naming a level of every factor, that meet all allowed pairs of levels.

    Greedy (AETG, Cohen et al. 1997, without its chance): the first pair that no cell has yet is taken, and every other
    factor gets the level that meets most of what is missing.

    Arguments:
        factors: levels by name; the widest first gives the fewest cells.
        allowed: whether these choices go together; called with incomplete cells too.
    """
    order = list(factors)
    every = [
        ((a, x), (b, y))
        for a, b in itertools.combinations(order, 2)
        for x in factors[a]
        for y in factors[b]
        if allowed({a: x, b: y})
    ]
    missing = dict.fromkeys(every)
    cells = []
    while missing:
        cell = _completed(dict(next(iter(missing))), factors, order, allowed, missing)
        if cell is None:
            missing.pop(next(iter(missing)))
            continue
        for pair in pairs_of(cell, order):
            missing.pop(pair, None)
        cells.append({name: cell[name] for name in order})
    return cells


def _completed(
    cell: Cell,
    factors: Mapping[str, Sequence[Any]],
    order: Sequence[str],
    allowed: Callable[[Cell], bool],
    missing: Mapping[Pair, None],
) -> Cell | None:
    """The cell with a level of every factor, by most missing pairs, going back where nothing fits; None: impossible."""
    open_factors = [name for name in order if name not in cell]
    if not open_factors:
        return cell
    name = open_factors[0]
    tries = [{**cell, name: level} for level in factors[name]]
    tries = [one for one in tries if allowed(one)]
    gains = [sum(pair in missing for pair in pairs_of(one, order)) for one in tries]
    for place in sorted(range(len(tries)), key=lambda i: -gains[i]):
        found = _completed(tries[place], factors, order, allowed, missing)
        if found is not None:
            return found
    return None
