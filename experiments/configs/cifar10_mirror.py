"""CIFAR-10 by convolutions and a dense layer, mirrors of the layers' own weights.

python -m experiments.compare cifar10_mirror --estimators backprop mirror_manifold mirror --seeds 3

The dense layer has 8,192 inputs and shares its weights over no positions, so that probes are few
and its feedback is averaged over about 200 steps; with a decay of .7 the cosine of the credit
before it is .38, with .98 it is .87. `mirror_manifold` probes the layer in the manifold of its
input. Settings chosen here on held-out images; run on a JPEG copy of CIFAR-10 (`--data folder
--data-path PATH`), not yet on the original.
"""

from experiments.configs.cifar10 import config as shared

config = shared.replace(
    features=(32, 64, 128),
    strides=(1, 2, 2),
    estimator="mirror",
    probes="auto",
    rank=128,
    feedback_decay=0.98,
    update_every=4,
)
