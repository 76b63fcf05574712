"""CIFAR-10 by ResNet-20 with GroupNorm, mirrors of the layers' own weights.

python -m experiments.compare cifar10_resnet20 --estimators backprop mirror --seeds 3

Settings chosen here; run on a JPEG copy of CIFAR-10 (`--data folder --data-path PATH`), not yet on
the original.
"""

from experiments.configs.cifar10_mirror import config as shared

config = shared.replace(
    model="resnet20", features=(), strides=(), estimator="mirror", feedback_decay=0.7
)
