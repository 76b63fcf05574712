"""Models of maintained packages, unchanged: mirrors of all their linear layers."""

from types import SimpleNamespace

import flax.linen as nn
import flaxmodels
import jax
import jax.numpy as jnp
import pytest
from flaxmodels.gpt2.gpt2 import GPT2Block

import nmnc_jax.linen
from nmnc_jax import weight_mirror
from tests.cases import squared_error
from tests.test_mirror import NOTHING, error_of, with_exact_mirrors


@pytest.fixture(autouse=True)
def _promotion_that_flaxmodels_takes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


HURRIED = {"xla_backend_optimization_level": 0}


def exact_mirrors_give_the_exact_gradient(apply, params, batch, mark):
    """Returns the names of the stages; the model is not tried, which takes longer than the rest."""
    apply_fn = mark(apply)
    estimator = weight_mirror(apply_fn, squared_error, check=False)
    state = with_exact_mirrors(apply_fn, params, batch[0], estimator.init(params, batch))

    def both(params, state):
        ours = estimator.estimate(jax.random.key(0), params, batch, state, due=NOTHING)[0]
        return ours, jax.grad(lambda p: squared_error(apply(p, batch[0]), batch[1]).mean())(params)

    ours, theirs = jax.jit(both, compiler_options=HURRIED)(params, state)
    assert error_of(ours, theirs) < 1e-4
    return [tap.name for tap in state.layout.taps]


def initialised(model, *arguments, **settings):
    init = lambda key: model.init(key, *arguments, **settings)  # noqa: E731
    return jax.jit(init, compiler_options=HURRIED)(jax.random.key(1))


def test_a_resnet_of_another_project():
    """A ResNet-18 with frozen batch statistics."""
    model = flaxmodels.ResNet18(output="logits", pretrained=None, num_classes=10)
    inputs = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = initialised(model, inputs, train=False)

    def apply(params, inputs):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        return model.apply(given, inputs, train=False)

    batch = inputs, jnp.ones((2, 10))
    mark = nmnc_jax.linen.mirror_layers
    names = exact_mirrors_give_the_exact_gradient(apply, variables["params"], batch, mark)
    # All but the first convolution, whose input is that of the network.
    assert len(names) == 20


class Transformer(nn.Module):
    """Causal blocks on tokens [B, T, 8]."""

    @nn.compact
    def __call__(self, x):
        config = SimpleNamespace(
            **{"n_positions": 5, "n_embd": 8, "n_head": 2, "n_inner": 16},
            **{"attn_pdrop": 0.1, "resid_pdrop": 0.1, "scale_attn_weights": True},
            **{"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"},
        )
        for _ in range(2):
            x, _ = GPT2Block(config)(x, training=False)
        return x.mean(1)


def test_a_transformer_of_another_project():
    inputs = jax.random.normal(jax.random.key(0), (3, 5, 8))
    params = initialised(Transformer(), inputs)
    batch = inputs, jnp.ones((3, 8))
    mark = nmnc_jax.mirror_layers
    names = exact_mirrors_give_the_exact_gradient(Transformer().apply, params, batch, mark)
    assert len(names) == 8
