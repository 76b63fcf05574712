"""CIFAR-10 by a strided convolutional net, isotropic noise correlation.

python -m experiments.train cifar10_vnc

Settings chosen here; not yet run on the real data.
"""

import dataclasses

from experiments.configs.cifar10_backprop import config as shared

config = dataclasses.replace(shared, estimator="vnc")
