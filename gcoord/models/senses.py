"""What an agent makes of what it senses alone: an MLP for vectors, a CNN for images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sense(nn.Module):
    """Layers applied to the last `rank` dimensions, whatever comes before them; `out_dim` features leave.

    Arguments:
        layers: takes [B, ...] and gives [B, out_dim].
        out_dim: features that leave.
        rank: 1 for vectors [*, O], 3 for images [*, C, H, W].
    """

    def __init__(self, layers: nn.Module, out_dim: int, rank: int) -> None:
        super().__init__()
        self.layers, self.out_dim, self.rank = layers, out_dim, rank

    def forward(self, x: Tensor) -> Tensor:
        """x [*, O] or [*, C, H, W] -> [*, out_dim]. Bytes (uint8) are read as 0 to 1, floats as they are."""
        if not x.is_floating_point():
            x = x.to(torch.get_default_dtype()) / 255 if x.dtype == torch.uint8 else x.to(torch.get_default_dtype())
        if self.rank == 1:
            return self.layers(x)  # type: ignore[no-any-return]
        return self.layers(x.reshape(-1, *x.shape[-3:])).view(*x.shape[:-3], self.out_dim)  # type: ignore[no-any-return]


def mlp(in_dim: int, dim: int, layers: int = 2) -> Sense:
    """`layers` linear maps to `dim` features, each followed by ReLU: [*, in_dim] -> [*, dim]."""
    if in_dim < 1 or dim < 1 or layers < 1:
        raise ValueError(f"expected positive sizes (got in_dim={in_dim}, dim={dim}, layers={layers})")
    parts: list[nn.Module] = []
    for size in (in_dim, *[dim] * (layers - 1)):
        parts += [nn.Linear(size, dim), nn.ReLU()]
    return Sense(nn.Sequential(*parts), dim, rank=1)


def cnn(shape: tuple[int, int, int], dim: int) -> Sense:
    """Convolutions of an image (C, H, W), then a linear map to `dim` features and ReLU: [*, C, H, W] -> [*, dim].

    From 36 pixels a side it is the network of Mnih et al., https://doi.org/10.1038/nature14236 (8 x 8 by 4, 4 x 4 by
    2, 3 x 3 by 1). From 16 cells two 3 x 3 convolutions that halve the size each; on smaller grids, such as an agent's
    7 x 7 surroundings, two narrow ones, as full width would cost far more than all messages; of them the second halves
    the size from 12 cells, where it else would cost most.
    """
    channels, *sides = shape
    if len(sides) != 2 or channels < 1 or min(sides) < 1:
        raise ValueError(f"expected the shape (C, H, W) of an image (got {tuple(shape)})")
    if min(sides) >= 36:
        plan = [(32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0)]
    elif min(sides) >= 16:
        plan = [(32, 3, 2, 1), (64, 3, 2, 1)]
    elif min(sides) >= 12:
        # Sides that are even would lose their last row without a border.
        plan = [(16, 3, 1, 0), (32, 3, 2, 1 - min(sides) % 2)]
    else:
        border = 0 if min(sides) >= 5 else 1
        plan = [(16, 3, 1, border), (32, 3, 1, border)]
    parts: list[nn.Module] = []
    for width, size, stride, padding in plan:
        parts += [nn.Conv2d(channels, width, size, stride, padding), nn.ReLU()]
        sides = [(side + 2 * padding - size) // stride + 1 for side in sides]
        channels = width
    parts += [nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], dim), nn.ReLU()]
    return Sense(nn.Sequential(*parts), dim, rank=3)


def sense(own_dim: int | tuple[int, ...], dim: int, layers: int = 2) -> Sense:
    """The sense that an observation's shape calls for: O or (O,) an `mlp`, (C, H, W) a `cnn`."""
    if isinstance(own_dim, int):
        return mlp(own_dim, dim, layers)
    if len(own_dim) == 1:
        return mlp(own_dim[0], dim, layers)
    if len(own_dim) == 3:
        return cnn((own_dim[0], own_dim[1], own_dim[2]), dim)
    raise ValueError(f"expected own_dim to be O, (O,) or (C, H, W) (got {tuple(own_dim)})")


def orthogonal(module: nn.Module, gain: float = 2**0.5) -> None:
    """Orthogonal weights and zero biases in every linear map and convolution of `module`."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(part.weight, gain)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
