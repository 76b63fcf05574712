"""CIFAR-10 by a strided convolutional net, direct feedback alignment.

python -m experiments.train cifar10_dfa

Settings chosen here; run on a JPEG copy of CIFAR-10, not yet on the original.
"""

from experiments.configs.cifar10 import config as shared

config = shared.replace(estimator="dfa")
