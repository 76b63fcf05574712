"""CIFAR-10, read row by row by a GRU, any estimator.

python -m experiments.train rnn_cifar10 --estimator nmnc

or, from a folder or an archive of images: --data folder --data-path PATH. Settings chosen here.
"""

from experiments.configs.rnn_mnist5k import config as digits

config = digits.replace(data="cifar10")
