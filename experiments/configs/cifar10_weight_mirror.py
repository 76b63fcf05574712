"""CIFAR-10 by a strided convolutional net, weight mirrors with noise in the neural manifold.

python -m experiments.train cifar10_weight_mirror

Settings chosen here; run on a JPEG copy of CIFAR-10, not yet on the original.
"""

from experiments.configs.cifar10 import config as shared

config = shared.replace(estimator="weight_mirror_manifold")
