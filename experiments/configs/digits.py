"""Digits: 1,797 handwritten digits of 8x8 pixels (scikit-learn's bundled set).

python -m experiments.train digits
"""

from experiments.configuration import Config, Data, Model, Run

config = Config(
    Data("digits"),
    Model("conv", features=(16, 32, 32), strides=(1, 2, 1), dense=64),
    run=Run(steps=1000),
)
