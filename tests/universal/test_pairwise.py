"""The covering array meets what it promises."""

from __future__ import annotations

import itertools

from pairwise import cover


def test_every_allowed_pair_is_met_and_no_cell_is_forbidden():
    factors = {"a": range(7), "b": range(4), "c": "xy", "d": "pqr", "e": "uv"}

    def allowed(cell):
        return not (cell.get("c") == "x" and cell.get("d") == "r") and not (cell.get("a") == 3 and cell.get("e") == "u")

    cells = cover(factors, allowed)
    assert all(allowed(cell) and cell.keys() == factors.keys() for cell in cells)
    full = [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
    legal = [cell for cell in full if allowed(cell)]
    for one, other in itertools.combinations(factors, 2):
        met = {(cell[one], cell[other]) for cell in cells}
        assert met == {(cell[one], cell[other]) for cell in legal}
    assert len(cells) < len(legal) / 4


def test_a_pair_that_no_whole_cell_can_have_is_left_out():
    factors = {"a": [0, 1], "b": [0, 1], "c": [0, 1]}

    def allowed(cell):
        # a = 0 and b = 0 alone go together, but neither level of c goes with both.
        return not (cell.get("a") == 0 and cell.get("c") == 0) and not (cell.get("b") == 0 and cell.get("c") == 1)

    cells = cover(factors, allowed)
    assert {(c["a"], c["b"]) for c in cells} == {(0, 1), (1, 0), (1, 1)}
