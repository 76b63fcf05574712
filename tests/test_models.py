"""The shipped models keep examples apart and take the input sizes that they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nmnc_jax import run
from nmnc_jax.models import MLP, ConvNet

MODELS = {
    "mlp": (MLP((16, 8), 10), (8, 8, 1)),
    "conv 8x8": (ConvNet((8, 8), (1, 2), 16, 10), (8, 8, 1)),
    "conv 28x28": (ConvNet((8, 16), (2, 2), 16, 10), (28, 28, 1)),
    "conv 32x32": (ConvNet((8, 16), (2, 2), 16, 10), (32, 32, 3)),
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_taps(name):
    model, shape = MODELS[name]
    inputs = jax.random.normal(jax.random.key(0), (4, *shape))
    params = model.init(jax.random.key(1), inputs)
    outputs, activations = run(model.apply, params, inputs)
    assert outputs.shape == (4, 10)
    expected = ["dense0", "dense1"] if name == "mlp" else ["conv0", "conv1", "dense"]
    assert sorted(activations) == expected
    for activation in activations.values():
        assert float(activation.min()) == 0
        assert float(activation.max()) > 0


@pytest.mark.parametrize("name", MODELS)
def test_one_examples_perturbation_stays_with_it(name):
    """As batch statistics would not allow."""
    model, shape = MODELS[name]
    inputs = jax.random.normal(jax.random.key(0), (4, *shape))
    params = model.init(jax.random.key(1), inputs)
    outputs, activations = run(model.apply, params, inputs)
    first = sorted(activations)[0]
    noise = jnp.zeros_like(activations[first]).at[2].set(1.0)
    noisy, _ = run(model.apply, params, inputs, noise={first: noise})
    changed = np.abs(noisy - outputs).max(1) > 1e-6
    assert changed.tolist() == [False, False, True, False]
