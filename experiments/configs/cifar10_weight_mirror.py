"""CIFAR-10 by a strided convolutional net, weight mirrors with noise in the neural manifold.

python -m experiments.train cifar10_weight_mirror

Settings chosen here; not yet run on the real data.
"""

import dataclasses

from experiments.configs.cifar10_backprop import config as shared

config = dataclasses.replace(shared, estimator="weight_mirror_manifold")
