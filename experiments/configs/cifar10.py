"""CIFAR-10 by a strided convolutional net, with any estimator.

python -m experiments.train cifar10 --estimator nmnc

or, from a folder or an archive of images (train/<class>/, test/<class>/) in place of the prepared
set: python -m experiments.train cifar10 --data folder --data-path PATH

Settings chosen here, rank and decay on held-out training images; run on a JPEG copy of CIFAR-10,
not yet on the original.
"""

from experiments.configuration import Config, Data, Method, Model, Run

config = Config(
    Data("cifar10"),
    Model("conv", features=(32, 32, 64), strides=(2, 2, 1)),
    method=Method(rank=512, feedback_decay=0.97, basis_update_every=200),
    run=Run(steps=4000, log_every=1000),
)
