"""A hand-written pursuer for waterworld: it flies at the evaders that its rays tell of."""

from __future__ import annotations

import torch
from torch import Tensor

_ENOUGH = 0.02  # a smaller change of velocity, in sides a second, is not worth its price
_SOON = 0.5  # s ahead in which poison is avoided


def chase(
    own: Tensor,
    position: Tensor,
    velocity: Tensor,
    way: Tensor,
    reach: float,
    radius: float,
    speeds: tuple[float, float, float],
    n_coop: int,
) -> Tensor:
    """Changes of velocity [B, N, 2].

    Each flies at the nearest evader sensed, leading it by its speed; where one catcher is enough, only if no fellow is
    nearer to it. Where more are needed it keeps an evader company once it touches it, those who sense none fly to the
    nearest fellow that has one, and all part once they are enough. It sidesteps poison, and gets moving where it
    hardly moves. It hears where its fellows are and whether they touch; of its own velocity it knows by the world's
    state, which a memory would tell.

    Arguments:
        own [B, N, 8 S + 2], position and velocity [B, N, 2], way [S, 2]: as in Waterworld and Sensors.
        reach: of the rays. radius: a pursuer's. speeds: a pursuer's, an evader's and a poison's highest.
    """
    n_rays = len(way)
    _, _, evader, evader_speed, poison, poison_speed, *_ = own[..., :-2].unflatten(-1, (-1, n_rays)).unbind(-2)
    top, of_evader, of_poison = speeds
    touches = own[..., -2] > 0
    prey, prey_seen, prey_way = _locate(evader, evader_speed, way, reach, 2 * radius)
    prey_speed = velocity + prey_way * (top + of_evader)
    fellows = _between(position)  # [B, N, N]

    wanted = _intercept(prey, prey_speed, top)
    goes = prey_seen
    if n_coop == 1:
        there = (position + prey).unsqueeze(-2) - position.unsqueeze(-3)
        distance = torch.linalg.vector_norm(there, dim=-1)  # [B, N, N]: of fellow j to i's prey
        mine = torch.linalg.vector_norm(prey, dim=-1)
        goes = goes & ~((distance < mine.unsqueeze(-1)) & fellows.isfinite()).any(-1)
    else:
        wanted = torch.where(touches.unsqueeze(-1), prey_speed + prey / 0.2, wanted)
        holder = fellows.masked_fill(~touches.unsqueeze(-2), torch.inf)
        far, who = holder.min(-1)
        to_holder = position.gather(-2, who.unsqueeze(-1).expand_as(position)) - position
        called = ~prey_seen & far.isfinite()
        wanted = torch.where(called.unsqueeze(-1), _intercept(to_holder, torch.zeros_like(to_holder), top), wanted)
        goes = goes | called
    company = ((fellows < 6 * radius) & touches.unsqueeze(-2)).sum(-1) + 1
    parting = (touches & (company >= n_coop)).unsqueeze(-1)
    goes = goes | parting.squeeze(-1)
    crowded = (fellows < reach).any(-1, keepdim=True)
    wanted = torch.where(parting, torch.where(crowded, _intercept(-prey, prey_speed, top), velocity), wanted)
    still = torch.linalg.vector_norm(velocity, dim=-1, keepdim=True) < top / 2
    aim = torch.rand_like(position) * 2 - 1
    onward = torch.where(still, aim * top / aim.abs().amax(-1, keepdim=True), velocity)
    wanted = torch.where(goes.unsqueeze(-1), wanted, onward)

    bane, bane_seen, bane_way = _locate(poison, poison_speed, way, reach, 0.75 * radius)
    bane_speed = velocity + bane_way * (top + of_poison) - wanted  # relative, were the wish fulfilled
    square = bane_speed.square().sum(-1, keepdim=True).clamp(min=1e-6)
    when = -(bane * bane_speed).sum(-1, keepdim=True) / square
    miss = bane + when * bane_speed
    gap = torch.linalg.vector_norm(miss, dim=-1, keepdim=True)
    hits = bane_seen.unsqueeze(-1) & (when > 0) & (when < _SOON) & (gap < 2 * radius)
    aside = -miss / gap.clamp(min=1e-6) * (2 * radius - gap) / when.clamp(min=0.1)
    wanted = torch.where(hits, wanted + aside, wanted).clamp(-top, top)
    change = wanted - velocity
    return torch.where(torch.linalg.vector_norm(change, dim=-1, keepdim=True) < _ENOUGH, 0.0, change)


def _locate(share: Tensor, speed: Tensor, way: Tensor, reach: float, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where the nearest thing's centre is, relative [B, N, 2], whether there is one [B, N], and its relative speed.

    Each ray that meets it tells one component of both; two rays and more give them by least squares.
    """
    nearest, ray = share.min(-1, keepdim=True)
    turn = (way[ray.squeeze(-1)] @ way.t()).clamp(-1, 1)  # [B, N, S]: cosine to the nearest ray
    same = (share < 1) & (share - nearest < radius / reach) & (turn > 0)
    weight = same.to(share)
    told = torch.stack([weight * share * reach, weight * speed], -1)  # [B, N, S, 2]
    x, y = way.unbind(-1)
    # Sums over rays of way way', a little more on its diagonal for single rays, and of what they tell times way.
    square = torch.stack([x * x, x * y, y * y], -1)
    xx, xy, yy = (weight @ square).unbind(-1)
    xx, yy = xx + 1e-3, yy + 1e-3
    sums = torch.einsum("bnst,sp->bntp", told, way)
    det = (xx * yy - xy * xy).unsqueeze(-1)
    right, up = sums.unbind(-1)
    found = torch.stack(
        [yy.unsqueeze(-1) * right - xy.unsqueeze(-1) * up, xx.unsqueeze(-1) * up - xy.unsqueeze(-1) * right], -1
    ) / det.unsqueeze(-1)  # [B, N, 2, P]
    return found[..., 0, :], nearest.squeeze(-1) < 1, found[..., 1, :]


def _intercept(way: Tensor, speed: Tensor, top: float) -> Tensor:
    """The velocity, at most `top` along each axis, that closes `way` to what moves with `speed` the soonest."""
    room = torch.where(way > 0, top - speed, top + speed).clamp(min=0) / way.abs().clamp(min=1e-6)
    return (speed + way * room.amin(-1, keepdim=True)).clamp(-top, top)


def _between(position: Tensor) -> Tensor:
    """Distances [B, N, N], infinite to oneself."""
    far = torch.linalg.vector_norm(position.unsqueeze(-2) - position.unsqueeze(-3), dim=-1)
    return far.masked_fill(torch.eye(far.shape[-1], dtype=torch.bool, device=far.device), torch.inf)
