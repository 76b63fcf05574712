"""CIFAR-10 by a strided convolutional net, backpropagation.

python -m experiments.train cifar10_backprop

Settings chosen here; not yet run on the real data.
"""

from experiments.config import Config

config = Config(
    data="cifar10",
    model="conv",
    features=(32, 32, 64),
    strides=(2, 2, 1),
    estimator="backprop",
    rank=256,
    basis_update_every=200,
    basis_decay=0.7,
    steps=4000,
    log_every=1000,
)
