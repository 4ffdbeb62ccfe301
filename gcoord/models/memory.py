"""What an agent remembers from step to step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GRU(nn.Module):
    """A gated recurrent unit with one memory per agent and one set of weights for all (https://arxiv.org/abs/1406.1078).

    The equations are torch's `nn.GRUCell`: r, z = sigmoid(W x + U h), n = tanh(W_n x + b_n + r (U_n h + c_n)),
    h' = (1 - z) n + z h. The memory is also the output. Dead agents remember nothing, so one that returns starts anew.

    Arguments:
        in_dim: features of x.
        dim: features of the memory.

    Shapes: x [*, N, in_dim], memory [*, N, dim], alive [*, N] bool; over time each with T in front, resets [T, *] bool.
    """

    def __init__(self, in_dim: int, dim: int = 64) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.out_dim = dim
        self.cell = nn.GRUCell(in_dim, dim)
        for weight in (self.cell.weight_ih, self.cell.weight_hh):
            for gate in weight.data.split(dim):
                nn.init.orthogonal_(gate)
        nn.init.zeros_(self.cell.bias_ih)
        nn.init.zeros_(self.cell.bias_hh)

    def initial(self, *shape: int, device: torch.device | str | None = None) -> Tensor:
        """The memory of agents that have seen nothing: `initial(B, N)` -> zeros [B, N, dim]."""
        return self.cell.weight_hh.new_zeros(*shape, self.out_dim, device=device)

    def step(self, x: Tensor, memory: Tensor, alive: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step: out [*, N, dim] and the new memory, which are the same tensor."""
        if alive is not None:
            x = torch.where(alive.unsqueeze(-1), x, 0.0)
            memory = torch.where(alive.unsqueeze(-1), memory, 0.0)
        inputs = F.linear(x, self.cell.weight_ih, self.cell.bias_ih)
        to_gates, to_new = inputs.split([2 * self.out_dim, self.out_dim], -1)
        memory = self._step(to_gates, to_new, memory)
        if alive is not None:
            memory = torch.where(alive.unsqueeze(-1), memory, 0.0)
        return memory, memory

    def unroll(self, x: Tensor, memory: Tensor, resets: Tensor, alive: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T steps: out [T, *, N, dim] and the memory after the last; memory is cleared before row t where resets[t]."""
        read = ~resets[..., None, None]  # [T, *, 1, 1]: where the memory is not cleared before row t
        if alive is not None:
            living = alive.unsqueeze(-1)
            x = torch.where(living, x, 0.0)
            read = read & torch.cat([living[:1], living[:-1]])
        inputs = F.linear(x, self.cell.weight_ih, self.cell.bias_ih)
        rows = []
        # Split once for all rows: a slice in every step costs a zero-filled gradient in every step.
        to_gates, to_new = inputs.split([2 * self.out_dim, self.out_dim], -1)
        for gates_t, new_t, read_t in zip(to_gates.unbind(), to_new.unbind(), read.unbind(), strict=True):
            memory = self._step(gates_t, new_t, torch.where(read_t, memory, 0.0))
            rows.append(memory)
        out = torch.stack(rows)
        if alive is not None:
            out = torch.where(living, out, 0.0)
        return out, out[-1]

    def _step(self, to_gates: Tensor, to_new: Tensor, memory: Tensor) -> Tensor:
        """One step from the inputs' projections, [*, N, 2 dim] to the gates and [*, N, dim] to the new memory."""
        recurrent = F.linear(memory, self.cell.weight_hh, self.cell.bias_hh)
        gates, new = recurrent.split([2 * self.out_dim, self.out_dim], -1)
        reset, update = torch.sigmoid(to_gates + gates).chunk(2, -1)
        return torch.lerp(torch.tanh(torch.addcmul(to_new, reset, new)), memory, update)
