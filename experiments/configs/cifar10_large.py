"""CIFAR-10 by four convolutions of 64 to 256 channels, the first without a stride, any estimator.

python -m experiments.train cifar10_large --estimator nmnc

or, from a folder or an archive of images: --data folder --data-path PATH. Taps of 65,536, 32,768,
32,768 and 16,384 units, where few probes are few indeed.

Settings chosen here; 600 steps were run on a JPEG copy of CIFAR-10.
"""

from experiments.configs.cifar10 import config as small

config = small.replace(
    features=(64, 128, 128, 256),
    strides=(1, 2, 1, 2),
    dense=256,
    rank=256,
    basis_batch=512,
    alignment_batch=256,
)
