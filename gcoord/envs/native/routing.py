"""Packets find their way through a network whose links hold little: DGN's routing, batched."""

from __future__ import annotations

from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from gcoord.envs.cards import Card
from gcoord.envs.native.links import HEARD, Links
from gcoord.envs.native.network import LINKS, draw_network
from gcoord.envs.native.pictures import Picture, lines
from gcoord.envs.native.state import InTensors
from gcoord.spec import Discrete, TeamSpec
from gcoord.trajectory import Observation, Outcome

PACKETS, ROUTERS, STEPS = 20, 20, 300
_PRIZE, _FINE = 10.0, 0.2
_FIELDS = 5  # numbers a packet or link is described by
_OWN = {"published": 5 * (1 + LINKS + HEARD), "ways": 4 + 6 * LINKS, "tables": 4 + 5 * LINKS}  # numbers sensed

CARDS = {
    "native/routing": Card(
        sizes=(4, 20, 60),
        knows="router, destination, link, size and number of its packet; number, ends, length and load of the links at "
        "its router; the same five of the packets it hears, at most 3 at its router or next to it",
        arena="fixed: as many routers as packets; arena: 20 routers, the published network, whatever the team",
        random=19.9,
        scripted=355.6,
        note="published figures are for density=arena; hear by topology=given; with view=ways a packet knows ways in "
        "the plane in place of numbers: to its destination, and over each link; with view=tables how many steps it has "
        "left over each link, as routers know it, and how long it would wait for the link; over 32 games of 300 steps "
        "on the published network shortest paths make 1.19, .86 and .62 a packet and step at 20, 40 and 60 packets, "
        "delay 8.1, 10.4 and 12.8 (.59 and 13.9 at 60 in games of 1,000 steps: the network begins empty)",
    )
}


class Routing(InTensors):
    """DGN's routing (https://arxiv.org/abs/1810.09202): N packets, each an agent, on 20 routers of 3 links.

    An agent stays (0) or takes one of its router's links (1 to 3). A link that is entered holds the packet's size for
    as many steps as it is long; one that would then hold more than 1 refuses it, for a reward of -0.2. Whoever enters
    the link to its destination is there: +10, and the packet is redrawn (router, destination, size). What an agent in
    a link does is ignored. The rest follows the published code: a packet drawn at its destination counts as delivered
    unless it moves away, is paid nothing for staying there, and 10 where a link refuses it.

    Packets move one after another in the order of their numbers, each finding the links as those before it left them.
    Here all are settled at once: packets sorted by link, stable in their numbers, the load that each finds is a sum
    over those before it, and who enters follows from that; repeated until nothing changes, which is the sequential
    outcome, for the first k of a link are settled after k rounds.

    own [35]: router, destination, link or -1, size, number; of each link at the router (-1 where it has fewer than 3):
    number, both ends, length, load; of each packet heard, router, destination, link, size, and the *hearer's* number
    (the published code writes that one), -1 where there is none. One hears the first three, by number, of the packets
    at the same router or a linked one: `hears` says who. position [2]: of the router, or of the one a link leads to.

    The numbers of routers and links tell nothing about another network, and what they mean in this one has to be learnt
    by heart. With `view="ways"` own is [22], the same anywhere: whether it travels, its size, the way to where it is
    bound (x, y); and of each link at the router whether there is one, the way to its other end (x, y), how far that is
    from the destination, length and load. With `view="tables"` it is [19], what a script of shortest ways knows:
    whether it travels, its size, whether it is at its destination, steps left on the quickest way; and of each link
    whether there is one, in how many steps it has room for this packet if nobody else enters, load, length, and how
    many steps more the way over it takes (see `Network.over`).

    Arguments:
        n_agents: packets (N); None: 20.
        num_envs: teams (B), all on the same network. device: where everything happens.
        seed: of the packets' random stream.
        density: `fixed`: as many routers as packets (at least 4), in a square that grows alike; `arena`: 20 routers
            whatever the team, as published.
        network: seed of the network, see `gcoord.envs.native.network.draw_network`; 476 draws the published one.
        view: `published`, `ways` or `tables`, what is sensed.
        max_steps: steps of a game.

    Metrics: `throughput`, deliveries a step; `delay`, steps for each delivery of the game so far; `refused`, share of
    packets refused a step.
    """

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        density: Literal["fixed", "arena"] = "fixed",
        network: int = 476,
        view: Literal["published", "ways", "tables"] = "published",
        max_steps: int = STEPS,
    ) -> None:
        n = PACKETS if n_agents is None else n_agents
        if n < 1:
            raise ValueError(f"expected at least one packet in native/routing (got {n})")
        if density not in ("fixed", "arena"):
            raise ValueError(f"expected density to be fixed or arena (got {density!r})")
        if view not in _OWN:
            raise ValueError(f"expected view to be {', '.join(_OWN)} (got {view!r})")
        if not 0 <= network < 2**32:
            raise ValueError(f"expected network to be a seed from 0 to 2^32 - 1 (got {network})")
        if max_steps < 1:
            raise ValueError(f"expected at least one step (got max_steps={max_steps})")
        self.device = torch.device(device)
        self.spec = TeamSpec(
            num_envs=num_envs,
            n_agents=n,
            own=(_OWN[view],),
            actions=(Discrete(1 + LINKS),),
            position_dim=2,
            available=True,
            hears=True,
            max_steps=max_steps,
            metrics={"throughput": "mean", "delay": "last", "refused": "mean"},
            world="native/routing",
            density=density,
        )
        self._view = view
        self.network = draw_network(max(n, 1 + LINKS) if density == "fixed" else ROUTERS, network)
        self._links = Links(self.network, self.device)
        self._usable = self._tensor(self.network.usable, torch.bool).nonzero().squeeze(-1)
        self._number = torch.arange(n, device=self.device)
        self._alive = torch.ones(num_envs, n, dtype=torch.bool, device=self.device)
        self._kind = torch.zeros(num_envs, n, dtype=torch.long, device=self.device)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._state = {}

    def _tensor(self, array: Any, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(array, dtype=dtype, device=self.device)

    def reset(self, seed: int | None = None) -> Observation:
        if seed is not None:
            self._generator.manual_seed(seed)
        b = self.spec.num_envs
        zero = torch.zeros(b, dtype=torch.long, device=self.device)
        packets = self._draw()
        self._state = packets | {"steps": zero, "delivered": zero, "waited": zero, "pending": zero.bool()}
        return self._observe()

    def step(self, action: Tensor) -> tuple[Observation, Outcome]:
        if not self._state:
            raise RuntimeError("expected reset() before step()")
        state = dict(self._state)
        pending = state["pending"]
        router, link, size = state["router"], state["link"], state["size"]
        travels = link >= 0
        left = state["left"] - travels.long()
        leaves = travels & (left == 0)
        wanted = self._links.at[router, (action - 1).clamp(min=0)]
        tries = ~travels & (action > 0) & (wanted >= 0)
        enters = self._links.settle(wanted, tries, link, leaves, size)
        refused = tries & ~enters

        ends = self._links.ends[torch.where(enters, wanted, 0)]  # [B, N, 3]
        router = torch.where(enters, ends[..., 0] + ends[..., 1] - router, router)
        link = torch.where(enters, wanted, torch.where(leaves, -1, link))
        left = torch.where(enters, ends[..., 2], left)
        there = router == state["goal"]
        reward = torch.where(there & tries, _PRIZE, torch.where(refused, -_FINE, 0.0))

        age = state["age"] + 1
        steps = state["steps"] + 1
        delivered = state["delivered"] + there.sum(-1)
        waited = state["waited"] + torch.where(there, age, 0).sum(-1)
        # Before anything was delivered, the game's steps are the least that the first delivery will have taken.
        delay = torch.where(delivered > 0, waited / delivered.clamp(min=1), steps.float())
        scalars = {
            "throughput": there.sum(-1).float(),
            "delay": delay.float(),
            "refused": refused.float().mean(-1),
        }
        truncated = (steps >= (self.spec.max_steps or 0)) & ~pending
        fresh = there | pending.unsqueeze(-1)  # [B, N]: packets that are redrawn
        moved = {"router": router, "goal": state["goal"], "link": link, "left": left, "size": size, "age": age}
        self._state = {
            **{name: torch.where(fresh, drawn, moved[name]) for name, drawn in self._draw().items()},
            "steps": torch.where(pending, 0, steps),
            "delivered": torch.where(pending, 0, delivered),
            "waited": torch.where(pending, 0, waited),
            "pending": truncated,
        }
        outcome = Outcome(
            reward=torch.where(pending.unsqueeze(-1), 0.0, reward),
            terminated=torch.zeros_like(pending),
            truncated=truncated,
            valid=~pending,
            metrics=TensorDict(
                {name: torch.where(pending, 0.0, value) for name, value in scalars.items()},
                batch_size=[self.spec.num_envs],
            ),
            batch_size=[self.spec.num_envs],
        )
        return self._observe(), outcome

    def picture(self) -> Picture:
        """The network's links."""
        return lines(self.network.place, self.network.links[:, :2])

    def _check(self, state: dict[str, Tensor]) -> None:
        expected = (self.spec.num_envs, self.spec.n_agents)
        if (got := tuple(state["router"].shape)) != expected:
            raise ValueError(f"expected the state of {expected[0]} teams of {expected[1]} (got {got})")

    def scripted(self, observation: Observation) -> Tensor:
        """Each packet on its shortest way (Floyd, by the links' lengths), tried again where it was refused.

        A packet drawn at its destination goes round: it is paid for coming back.
        """
        return self._route(observation, self._links.shortest)

    def fastest(self, observation: Observation) -> Tensor:
        """The same on the way that takes the fewest steps: each link costs one step more, for none is left and entered
        in the same."""
        return self._route(observation, self._links.quickest)

    def detouring(self, observation: Observation) -> Tensor:
        """Packets that look at loads: each takes the link over which it is there soonest, waiting for room included.

        It stays while there will be no room in the next step either. One at its destination is paid for being refused.
        """
        state = self._state
        home = (state["router"] == state["goal"]).unsqueeze(-1)
        wait, _ = self._wait()
        # No way leads over a link that is not there.
        steps = self._links.over[state["router"], state["goal"]] + wait
        steps = torch.where(home & (wait > 1), 1.0, steps)
        best = steps.argmin(-1, keepdim=True)
        goes = (wait.gather(-1, best) <= 1) | home
        return torch.where((state["link"] < 0) & goes.squeeze(-1), 1 + best.squeeze(-1), 0)

    def _draw(self) -> dict[str, Tensor]:
        """New packets for all slots."""
        b, n = self.spec.num_envs, self.spec.n_agents
        u = torch.rand(3, b, n, generator=self._generator, device=self.device, dtype=torch.float64)
        ends = self._usable[(u[:2] * len(self._usable)).long()]
        zero = torch.zeros_like(ends[0])
        return {"router": ends[0], "goal": ends[1], "size": u[2], "link": zero - 1, "left": zero, "age": zero}

    def _observe(self) -> Observation:
        state = self._state
        router, link = state["router"], state["link"]
        b, n = router.shape
        heard = self._links.heard(router)
        hears = torch.zeros(b, n, n + 1, dtype=torch.bool, device=self.device).scatter_(2, heard, True)[..., :n]
        may_move = (self._links.at[router] >= 0) & (link < 0).unsqueeze(-1)
        return Observation(
            own=self._own(heard),
            alive=self._alive,
            kind=self._kind,
            position=self._links.place[router],
            hears=hears,
            available=torch.cat([torch.ones_like(may_move[..., :1]), may_move], dim=-1),
            batch_size=[b],
        )

    def _own(self, heard: Tensor) -> Tensor:
        if self._view == "published":
            return self._published(heard)
        return self._ways() if self._view == "ways" else self._told()

    def _wait(self) -> tuple[Tensor, Tensor]:
        return self._links.wait(*(self._state[name] for name in ("router", "link", "left", "size")))

    def _told(self) -> Tensor:
        """[B, N, 19]: oneself and the links at the router, as the routers' tables tell."""
        state = self._state
        at = self._links.at[state["router"]]
        there, length = at >= 0, self._links.ends[at.clamp(min=0), 2]
        wait, load = self._wait()
        steps = self._links.over[state["router"], state["goal"]]
        least = steps.amin(-1, keepdim=True)
        links = torch.stack([there, wait, load, length, steps - least], dim=-1)
        links = torch.where(there.unsqueeze(-1), links, 0.0).flatten(2)
        home = state["router"] == state["goal"]
        oneself = torch.stack([state["link"] >= 0, state["size"].float(), home, least.squeeze(-1)], dim=-1)
        return torch.cat([oneself, links], dim=-1)

    def _ways(self) -> Tensor:
        """[B, N, 22]: oneself and the links at the router, by their ways in the plane."""
        state = self._state
        router, link, size = state["router"], state["link"], state["size"]
        here, goal = self._links.place[router], self._links.place[state["goal"]]
        at = self._links.at[router]  # [B, N, 3]
        there, known = at >= 0, at.clamp(min=0)
        end = self._links.place[self._links.beyond[router].clamp(min=0)]  # [B, N, 3, 2]
        left = torch.linalg.vector_norm(goal.unsqueeze(-2) - end, dim=-1)
        load = self._links.load(link, size).float().gather(1, known.flatten(1)).view_as(left)
        links = torch.stack([there, left, self._links.ends[known, 2], load], dim=-1)
        links = torch.cat([links[..., :1], end - here.unsqueeze(-2), links[..., 1:]], dim=-1)
        links = torch.where(there.unsqueeze(-1), links, 0.0).flatten(2)
        oneself = torch.stack([link >= 0, size.float()], dim=-1)
        return torch.cat([oneself, goal - here, links], dim=-1)

    def _published(self, heard: Tensor) -> Tensor:
        """[B, N, 35]: oneself, the links at the router and the packets heard [B, N, 3], by their numbers."""
        state = self._state
        router, link, size = state["router"], state["link"], state["size"]
        b, n = router.shape
        number = self._number.expand(b, n)
        packets = torch.stack([router, state["goal"], link, size, number], dim=-1).float()  # [B, N, 5]
        load = self._links.load(link, size).float()
        links = torch.cat(
            [
                torch.arange(len(self._links.ends), device=self.device).unsqueeze(-1).expand(b, -1, 1).float(),
                self._links.ends.expand(b, -1, -1).float(),
                load.unsqueeze(-1),
            ],
            dim=-1,
        )  # [B, L, 5]
        at = self._links.at[router].flatten(1)  # [B, 3 N]
        links = links.gather(1, at.clamp(min=0).unsqueeze(-1).expand(-1, -1, _FIELDS))
        links = torch.where((at >= 0).unsqueeze(-1), links, -1.0).view(b, n, -1)
        others = packets.gather(1, heard.clamp(max=n - 1).flatten(1).unsqueeze(-1).expand(-1, -1, _FIELDS))
        others = others.view(b, n, HEARD, _FIELDS)
        others[..., -1] = number.unsqueeze(-1).float()
        others = torch.where((heard < n).unsqueeze(-1), others, -1.0).flatten(2)
        return torch.cat([packets, links, others], dim=-1)

    def _route(self, observation: Observation, first_link: Tensor) -> Tensor:
        if self._view == "published":
            router, goal, link = observation.own[..., :3].long().unbind(-1)
        else:  # the others do not tell the numbers
            router, goal, link = (self._state[name] for name in ("router", "goal", "link"))
        return torch.where(link < 0, 1 + first_link[router, goal], 0)
