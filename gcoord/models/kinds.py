"""Heterogeneous teams: padded to the widest kind, routed by `kind`. Predator and prey, speaker and listener."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.models.heads import Categorical, CategoricalChoice, Choice, QHead, TanhNormal, TanhNormalChoice
from gcoord.models.points import PointChoice, TanhPoint
from gcoord.spec import Action, Continuous, Discrete, TeamSpec


class ByKind(nn.Module):
    """One network per kind: an agent's row goes through the network of its kind.

    One kind is full sharing, N kinds is none. Every network sees every row and the right result is kept: no row is
    gathered, nothing waits for the device, and the cost is that of `n_kinds` networks.

    Arguments:
        make: makes one kind's network, [*, N, in] -> [*, N, out]; outs may differ, the narrower are padded with 0.
        n_kinds: number of kinds.

    Shapes: x [*, N, ...], kind [*, N] long (None with one kind) -> [*, N, widest out].
    """

    def __init__(self, make: Callable[[], nn.Module], n_kinds: int) -> None:
        super().__init__()
        if n_kinds < 1:
            raise ValueError(f"expected at least one kind (got {n_kinds})")
        self.networks = nn.ModuleList(make() for _ in range(n_kinds))

    def forward(self, x: Tensor, kind: Tensor | None = None) -> Tensor:
        return _by_kind([network(x) for network in self.networks], kind)


class MixedChoice:
    """Some agents choose a number, some a point in a box: action float [*, N, A], numbers in column 0, 0 elsewhere.

    Arguments:
        numbers: the choice of those that `is_discrete` [*, N] names.
        points: the choice of the others; both cover all rows.
    """

    def __init__(self, numbers: CategoricalChoice, points: TanhNormalChoice | PointChoice, is_discrete: Tensor) -> None:
        self.numbers = numbers
        self.points = points
        self.is_discrete = is_discrete

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self._join(self.numbers.sample(generator), self.points.sample(generator))

    def mode(self) -> Tensor:
        return self._join(self.numbers.mode(), self.points.mode())

    def explore(self, epsilon: float, generator: torch.Generator | None = None) -> Tensor:
        return self._join(self.numbers.explore(epsilon, generator), self.points.explore(epsilon, generator))

    def log_prob(self, action: Tensor) -> Tensor:
        number = torch.where(self.is_discrete, action[..., 0], 0.0).long()
        # A number is no point in the box: for the log-density it is replaced by one that is.
        point = torch.where(self.is_discrete.unsqueeze(-1), self.points.low, action)
        return torch.where(self.is_discrete, self.numbers.log_prob(number), self.points.log_prob(point))

    def entropy(self) -> Tensor:
        return torch.where(self.is_discrete, self.numbers.entropy(), self.points.entropy())

    def kl(self, other: Choice) -> Tensor:
        assert isinstance(other, MixedChoice)
        return torch.where(self.is_discrete, self.numbers.kl(other.numbers), self.points.kl(other.points))

    def _join(self, number: Tensor, point: Tensor) -> Tensor:
        as_row = F.pad(number.unsqueeze(-1).to(point.dtype), (0, point.shape[-1] - 1))
        return torch.where(self.is_discrete.unsqueeze(-1), as_row, point)


class KindHeads(nn.Module):
    """One policy head per kind, each with its own action space.

    Arguments:
        actions: the action space of every kind.
        dim: features of a node.
        gain, std, state_std: as in `Categorical` and `TanhNormal`.
        deterministic: kinds that act in a box choose a point (`TanhPoint`) and no distribution.

    Shapes: h [*, N, dim], available [*, N, A] bool, kind [*, N] long -> a choice of long [*, N] where all kinds are
    discrete, else of float [*, N, A]. An action that a kind does not have is never available to it.
    """

    low: Tensor
    high: Tensor
    legal: Tensor
    used: Tensor
    is_discrete: Tensor

    def __init__(
        self,
        actions: Sequence[Action],
        dim: int,
        gain: float = 0.01,
        std: float = 1.0,
        state_std: bool = False,
        deterministic: bool = False,
    ) -> None:
        super().__init__()

        def box(action: Continuous) -> TanhNormal | TanhPoint:
            if deterministic:
                return TanhPoint(dim, action.n, action.low, action.high, gain)
            return TanhNormal(dim, action.n, action.low, action.high, gain, std, state_std=state_std)

        self.heads = nn.ModuleList(
            Categorical(dim, action.n, gain) if isinstance(action, Discrete) else box(action) for action in actions
        )
        self.deterministic = deterministic
        self.width = max(action.n for action in actions)
        numbers = [action.n if isinstance(action, Discrete) else 0 for action in actions]
        boxes = [action if isinstance(action, Continuous) else None for action in actions]
        self.n_numbers = max(numbers)
        self.any_box = any(boxes)
        padding = [-1.0] * self.width, [1.0] * self.width
        constants = {
            "is_discrete": torch.tensor([box is None for box in boxes]),
            "legal": _first(numbers, max(self.n_numbers, 1)),
            "used": _first([box.n if box else 0 for box in boxes], self.width),
            "low": torch.tensor([([*box.low] if box else []) + padding[0][box.n if box else 0 :] for box in boxes]),
            "high": torch.tensor([([*box.high] if box else []) + padding[1][box.n if box else 0 :] for box in boxes]),
        }
        for name, constant in constants.items():
            self.register_buffer(name, constant, persistent=False)

    def forward(
        self, h: Tensor, available: Tensor | None = None, kind: Tensor | None = None
    ) -> CategoricalChoice | TanhNormalChoice | PointChoice | MixedChoice:
        kind = _slot(kind, h, len(self.heads))
        if not self.any_box:
            return self._numbers(h, available, kind)
        if self.n_numbers == 0:
            return self._points(h, kind)
        return MixedChoice(self._numbers(h, available, kind), self._points(h, kind), self.is_discrete[kind])

    def _numbers(self, h: Tensor, available: Tensor | None, kind: Tensor) -> CategoricalChoice:
        none = h.new_zeros(())
        logits = [head.logits(h) if isinstance(head, Categorical) else none for head in self.heads]
        legal = self.legal[kind]
        return CategoricalChoice(
            _by_kind(logits, kind, self.n_numbers),
            legal if available is None else legal & available[..., : self.n_numbers],
        )

    def _points(self, h: Tensor, kind: Tensor) -> TanhNormalChoice | PointChoice:
        none = h.new_zeros(())
        if self.deterministic:
            points = [head.squashed(h) if isinstance(head, TanhPoint) else none for head in self.heads]
            squashed = _by_kind(points, kind, self.width)
            return PointChoice(squashed, self.low[kind], self.high[kind], self.used[kind])
        moments = [head.moments(h) if isinstance(head, TanhNormal) else (none, none) for head in self.heads]
        mean = _by_kind([mean for mean, _ in moments], kind, self.width)
        log_std = _by_kind([log_std for _, log_std in moments], kind, self.width)
        return TanhNormalChoice(mean, log_std, self.low[kind], self.high[kind], self.used[kind])


class KindQ(nn.Module):
    """One Q head per kind, for kinds with different actions: q [*, N, A], 0 for actions that a kind does not have.

    Arguments:
        sizes: number of actions of every kind.
        dim: features of a node.
        dueling: as in `QHead`.
    """

    own: Tensor

    def __init__(self, sizes: Sequence[int], dim: int, dueling: bool = False) -> None:
        super().__init__()
        self.heads = nn.ModuleList(QHead(dim, n, dueling) for n in sizes)
        self.width = max(sizes)
        self.register_buffer("own", _first(sizes, self.width), persistent=False)

    def forward(self, h: Tensor, available: Tensor | None = None, kind: Tensor | None = None) -> Tensor:
        kind = _slot(kind, h, len(self.heads))
        return _by_kind([head(h) for head in self.heads], kind, self.width)

    def legal(self, available: Tensor | None = None, kind: Tensor | None = None) -> Tensor:
        """What may be chosen [*, N, A]: the kind's own actions that are available."""
        if kind is None:
            raise ValueError("expected `kind` [*, N] where kinds have actions of their own (got None)")
        own = self.own[kind.clamp(0, len(self.heads) - 1)]
        return own if available is None else own & available


def policy_head(
    spec: TeamSpec, dim: int, gain: float = 0.01, std: float = 1.0, state_std: bool = False
) -> Categorical | TanhNormal | KindHeads:
    """The policy head that fits the team's actions, called `head(h, available=None, kind=None) -> Choice`."""
    if len(spec.actions) > 1:
        return KindHeads(spec.actions, dim, gain, std, state_std)
    action = spec.actions[0]
    if isinstance(action, Discrete):
        return Categorical(dim, action.n, gain)
    return TanhNormal(dim, action.n, action.low, action.high, gain, std, state_std=state_std)


def point_head(spec: TeamSpec, dim: int, gain: float = 0.01) -> Categorical | TanhPoint | KindHeads:
    """As `policy_head`, but one point where an action is continuous, and no distribution."""
    if len(spec.actions) > 1:
        return KindHeads(spec.actions, dim, gain, deterministic=True)
    action = spec.actions[0]
    if isinstance(action, Discrete):
        return Categorical(dim, action.n, gain)
    return TanhPoint(dim, action.n, action.low, action.high, gain)


def q_head(spec: TeamSpec, dim: int, dueling: bool = False) -> QHead | KindQ:
    """The value head that fits the team's actions, called `head(h, available=None, kind=None) -> q [*, N, A]`.

    Raises ValueError where an action is continuous.
    """
    if not spec.discrete:
        raise ValueError(
            f"expected discrete actions for a value of each, as env.continuous=false gives where the world has "
            f"both (got {spec.actions})"
        )
    sizes = [action.n for action in spec.actions]
    return QHead(dim, sizes[0], dueling) if len(sizes) == 1 else KindQ(sizes, dim, dueling)


def _by_kind(values: Sequence[Tensor], kind: Tensor | None, width: int | None = None) -> Tensor:
    """Each agent's row of the tensor of its kind ([*, N, W_k], or what broadcasts to it), padded to the widest."""
    if len(values) == 1 and width is None:
        return values[0]
    if kind is None:
        raise ValueError(f"expected `kind` [*, N] to choose among {len(values)} kinds (got None)")
    width = width or max(value.shape[-1] for value in values)
    picked = None
    for k, value in enumerate(values):
        if value.dim() > 0:
            value = F.pad(value, (0, width - value.shape[-1]))
        picked = value if picked is None else torch.where((kind == k).unsqueeze(-1), value, picked)
    assert picked is not None
    return picked


def _slot(kind: Tensor | None, h: Tensor, n_kinds: int) -> Tensor:
    """Kinds that can index: the dead may carry any number."""
    if kind is None:
        raise ValueError(f"expected `kind` [*, N] to choose among {n_kinds} heads (got None)")
    return kind.clamp(0, n_kinds - 1).expand(h.shape[:-1])


def _first(counts: Sequence[int], width: int) -> Tensor:
    """[len(counts), width] bool: the first `counts[k]` of row k."""
    return torch.arange(width) < torch.tensor(list(counts)).unsqueeze(-1)
