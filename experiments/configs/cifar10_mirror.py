"""CIFAR-10 by convolutions and a dense layer, mirrors of the layers' own weights.

python -m experiments.compare cifar10_mirror --estimators backprop mirror_manifold mirror --seeds 3

The dense layer has 8,192 inputs, where probes are few; `mirror_manifold` probes it in the manifold
of its input. Settings chosen here; run on a JPEG copy of CIFAR-10 (`--data folder --data-path
PATH`), not yet on the original.
"""

from experiments.configs.cifar10 import config as shared

config = shared.replace(
    features=(32, 64, 128),
    strides=(1, 2, 2),
    estimator="mirror_manifold",
    probes="auto",
    rank=128,
    feedback_decay=0.7,
    update_every=4,
)
