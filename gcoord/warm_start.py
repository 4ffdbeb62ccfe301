"""A new run from another's weights: `initialise(run, folder)`."""

from __future__ import annotations

from pathlib import Path

from gcoord.checkpoint import load_state
from gcoord.learners.base import Learner
from gcoord.run import Run


def initialise(run: Run, folder: Path) -> str:
    """Starts a new run from another's weights: networks and normalisers, not counters, optimiser or data.

    A part that is bound to a team size (`fixed_n`) moves to no other; where one of the two runs has such a part and the
    other has not, the agent alone is taken over. Where an agent was learnt in another way (cloned, then left to PPO;
    offline, then online), what both ways have is. Returns what began anew for such a reason, in words, or nothing.
    Raises ValueError, in one line, for networks that do not fit.
    """
    best = folder / "checkpoints" / "best"
    saved = load_state(best if best.exists() else folder / "checkpoints" / "last")["learner"]
    state, own = saved["module"], run.learner.state_dict()
    had, has = ({name.split(".")[0] for name in names} - {"value_norm"} for names in (state, own))
    taken = had & has
    if (was_bound := saved.get("fixed_n")) != (bound := run.learner.fixed_n):
        if was_bound is not None and bound is not None:
            raise ValueError(
                f"expected n_agents={was_bound}, the team size to which a part of {folder} is bound (got {bound}); its "
                "agent can be taken over by an algo without such a part"
            )
        taken &= {"agent", "target_agent"}
    anew = {*has - taken, *had - taken}
    if anew:
        kept = {name: value for name, value in own.items() if name.split(".")[0] in has - taken}
        state = {n: value for n, value in state.items() if n.split(".")[0] in {*taken, "value_norm"}} | kept
    # Gates that the other had not begin open, as they are made.
    gates = [name for name in own if name not in state and ".gate." in name]
    state |= {name: own[name] for name in gates}
    differing = [name for name in {**own, **state} if name not in own or name not in state]
    differing += [name for name in own if name in state and own[name].shape != state[name].shape]
    if unfit := [name for name in differing if not name.startswith("value_norm.")]:
        raise ValueError(f"expected the networks of {folder} to fit this configuration (got other {sorted(unfit)[:3]})")
    if differing:
        # Value statistics of one side only: the new run begins with its own.
        state = {name: value for name, value in state.items() if not name.startswith("value_norm.")}
    run.learner.load_state_dict(state, strict=not differing)
    follow(run.learner, {name for name in anew if name in has})
    fresh = sorted(name for name in has - taken if not name.startswith("target_"))
    if run.learner.near is not None:
        run.learner.near.begin(run.learner.agent)
    opened = ["gates begin open"] * bool(gates)
    if not fresh:
        return "".join(opened)
    came = sorted(name for name in taken if not name.startswith("target_"))
    told = "the agent alone is" if came == ["agent"] else f"{' and '.join(came)} are"
    return "; ".join([f"of {folder} {told} taken over, {' and '.join(fresh)} begins anew", *opened])


def follow(learner: Learner, parts: set[str]) -> None:
    """Agents within parts that begin anew are set to what the policy is, where they are made like it."""
    policy = learner.agent.state_dict()
    followers = learner.followers()
    for name, module in learner.named_modules():
        if name.split(".")[0] in parts and any(module is one for one in followers):
            own = module.state_dict()
            if own.keys() == policy.keys() and all(own[n].shape == value.shape for n, value in policy.items()):
                module.load_state_dict(policy)
            elif learner.needs_init:
                raise ValueError(
                    f"expected {name} to be made like the policy, which it is to follow (got another head)"
                )
