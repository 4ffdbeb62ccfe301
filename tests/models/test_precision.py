"""Promises of encoders in bfloat16: close to float32, forward and backward, by CUDA's rules of autocast too."""

from functools import partial

import pytest
import torch
from torch.overrides import TorchFunctionMode

import gcoord
from gcoord.graph import Auto, Complete
from gcoord.models import GraphEncoder, kernels
from gcoord.models.agent import Body

# Some of what autocast computes in float32 on CUDA devices and in bfloat16 on CPUs
# (https://docs.pytorch.org/docs/stable/amp.html).
IN_FLOAT32 = {"softmax", "log_softmax", "sum", "prod", "exp", "log", "pow", "rsqrt", "norm", "layer_norm", "softplus"}


class AsOnCuda(TorchFunctionMode):
    """CPU's autocast with the types that a CUDA device's gives."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.__name__ in IN_FLOAT32 and torch.is_autocast_enabled("cpu") and kwargs.get("out") is None:
            args = [a.float() if isinstance(a, torch.Tensor) and a.dtype == torch.bfloat16 else a for a in args]
        return func(*args, **kwargs)


KERNELS = ["RelationKernel", "MeanKernel", "AdditiveKernel", "EdgeKernel", "ConvKernel"]


@pytest.mark.parametrize("rules", [None, AsOnCuda], ids=["cpu", "cuda"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("topology", [Auto(3), Complete()], ids=["nearest", "complete"])
@pytest.mark.parametrize("n_agents", [4, 40])
def test_features_and_gradients_are_those_of_float32_to_bfloat16s_precision(rules, kernel, topology, n_agents):
    world = gcoord.make_env("native/meet", n_agents=n_agents, num_envs=4, entities=3)
    body = Body(world.spec, topology, partial(GraphEncoder, dim=16, heads=2, kernel=getattr(kernels, kernel)))
    seen = world.reset(0)

    def both(mixed):
        body.mixed = mixed
        body.zero_grad()
        with rules() if rules else torch.enable_grad():
            h = body(seen).h
            loss = h.square().mean()
        loss.backward()
        return h.detach(), torch.cat([p.grad.flatten() for p in body.parameters() if p.grad is not None])

    exact, exact_gradient = both(None)
    h, gradient = both(torch.bfloat16)
    assert h.dtype == gradient.dtype == torch.float32
    assert not torch.equal(h, exact)
    assert (h - exact).norm() < 0.02 * exact.norm()
    assert (gradient - exact_gradient).norm() < 0.05 * exact_gradient.norm()


def test_attention_weights_come_back_in_float32_and_sum_to_one():
    world = gcoord.make_env("native/meet", n_agents=5, num_envs=4)
    body = Body(world.spec, Complete(), partial(GraphEncoder, dim=16, heads=2))
    body.mixed = torch.bfloat16
    for weights in body(world.reset(0), attention=True).attention:
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=0.01, rtol=0)
