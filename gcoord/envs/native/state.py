"""What native worlds share: all that they are is a dict of tensors and one random stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class InTensors:
    """A world whose state is `_state`, tensors by name (none before the first reset), and the stream `_generator`.

    `load_state_dict` goes on bit for bit from `state_dict`, on any device; a world says in `_check` which state fits.
    """

    device: torch.device
    _generator: torch.Generator
    _state: dict[str, Tensor]

    def close(self) -> None:
        """Nothing to release."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self._generator.get_state(),
            "state": {name: value.clone() for name, value in self._state.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["state"]:
            self._check(state["state"])
        self._generator.set_state(state["generator"].cpu())
        self._state = {name: value.to(self.device, copy=True) for name, value in state["state"].items()}

    def _check(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError for the state of other teams than these."""
        raise NotImplementedError
