"""Digits: 1,797 handwritten digits of 8x8 pixels (scikit-learn's bundled set).

python -m experiments.train digits
"""

from experiments.configuration import Config

config = Config(
    data="digits",
    model="conv",
    features=(16, 32, 32),
    strides=(1, 2, 1),
    dense=64,
    steps=1000,
)
