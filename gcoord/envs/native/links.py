"""Links that packets are on: who gets in, who hears whom, and what routers know by heart."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gcoord.envs.native.network import Network

HEARD = 3  # packets that a packet hears, at most
CAPACITY = 1.0


class Links:
    """A network on a device, and packets on its links, for B teams of N packets at once.

    place [R, 2]; ends [L, 3] long: a link's ends and length; at [R, 3] long: a router's links, -1 where there are
    fewer; beyond [R, 3] long: the routers at their other ends.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        self.network = network
        self.place = torch.as_tensor(network.place, dtype=torch.float32, device=device)
        self.ends, self.at, self.beyond = (
            torch.as_tensor(table, dtype=torch.long, device=device)
            for table in (network.links, network.at, network.beyond())
        )
        self.longest = int(network.links[:, 2].max())
        routers = torch.arange(len(self.at), device=device)
        # [R, R]: whose packets are heard: those of the same router and of its neighbours.
        self._near = (self.beyond.unsqueeze(-1) == routers).any(1) | (routers.unsqueeze(-1) == routers)

    @cached_property
    def shortest(self) -> Tensor:
        """[R, R] long: which of a router's links, 0 to 2, begins the shortest way to each destination (Floyd)."""
        return self._first(0.0)

    @cached_property
    def quickest(self) -> Tensor:
        """[R, R] long: the same where each link costs one step more, for none is left and entered in the same."""
        return self._first(1.0)

    @cached_property
    def over(self) -> Tensor:
        """[R, R, 3]: steps from a router to each destination over each of its links, see `Network.over`."""
        over = torch.as_tensor(self.network.over(), dtype=torch.float32, device=self.place.device)
        return over.movedim(1, 2).contiguous()

    def _first(self, waiting: float) -> Tensor:
        far = torch.as_tensor(self.network.ways(waiting), device=self.place.device)
        over = self.ends[self.at.clamp(min=0), 2].unsqueeze(-1) + waiting + far[self.beyond.clamp(min=0)]
        return over.masked_fill((self.at < 0).unsqueeze(-1), torch.inf).argmin(1)

    def load(self, link: Tensor, size: Tensor) -> Tensor:
        """[B, L]: what each link holds of packets on `link` [B, N] (-1: on none) of `size` [B, N]."""
        load = size.new_zeros(len(link), len(self.ends) + 1)
        return load.scatter_add_(1, torch.where(link < 0, len(self.ends), link), size)[:, :-1]

    def settle(self, wanted: Tensor, tries: Tensor, link: Tensor, leaves: Tensor, size: Tensor) -> Tensor:
        """[B, N]: who of those who try enters the link wanted, where packets come and go one after another."""
        none = len(self.ends)
        concerns = torch.where(tries, wanted, torch.where(leaves, link, none))  # the link each packet bears on
        load = torch.cat([self.load(link, size), size.new_zeros(len(size), 1)], dim=1)
        concerns, order = concerns.sort(dim=1, stable=True)
        place = torch.arange(size.shape[1], device=size.device)
        first = torch.cat([torch.ones_like(tries[:, :1]), concerns[:, 1:] != concerns[:, :-1]], dim=1)
        first_place = torch.where(first, place, 0).cummax(1).values  # of each packet's link
        size, tries, leaves = size.gather(1, order), tries.gather(1, order), leaves.gather(1, order)
        before, gone = load.gather(1, concerns), torch.where(leaves, -size, 0.0)
        enters = tries
        while True:
            change = torch.where(enters, size, gone)
            earlier = change.cumsum(1) - change
            found = before + earlier - earlier.gather(1, first_place)
            again = tries & (found + size <= CAPACITY)
            if torch.equal(again, enters):
                return torch.zeros_like(enters).scatter_(1, order, enters)
            enters = again

    def heard(self, router: Tensor) -> Tensor:
        """[B, N, 3]: numbers of the packets that each hears, N where there are fewer."""
        b, n = router.shape
        number = torch.arange(n, device=router.device)
        # By router, so that nothing of size N x N is searched: the first four there, of whom nobody needs himself.
        near = self._near[:, router].movedim(0, 1)  # [B, R, N]
        rank = near.cumsum(-1, dtype=torch.int32)
        slot = torch.where(near & (rank <= HEARD + 1), rank - 1, HEARD + 1).long()
        first = torch.full((b, near.shape[1], HEARD + 2), n, device=router.device)
        first = first.scatter_(2, slot, number.expand_as(slot))[..., : HEARD + 1]
        four = first.gather(1, router.unsqueeze(-1).expand(-1, -1, HEARD + 1))  # [B, N, 4]
        # Numbers rise: from oneself on the next is taken; who is not among the four comes after them.
        skipped = (four[..., :HEARD] >= number.unsqueeze(-1)).long()
        return four.gather(2, number.new_tensor(range(HEARD)) + skipped)

    def wait(self, router: Tensor, link: Tensor, left: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, 3] each, of the links at each packet's router: steps until one has room for it, if nobody else enters,
        and what it holds now; 0 of a link that is not there.

        Arguments, [B, N] each: router and link (-1: none) of packets, steps left on it, size.
        """
        at = self.at[router]
        there, index = at >= 0, at.clamp(min=0).flatten(1)
        wait, loads = torch.zeros_like(at), []
        # Lengths are a few steps: what is held after each of them.
        for passed in range(self.longest):
            after = self.load(torch.where(left > passed, link, -1), size).gather(1, index).view(at.shape)
            wait += there & (after + size.unsqueeze(-1) > CAPACITY)
            loads.append(after)
        return wait.float(), torch.where(there, loads[0], 0.0).float()
