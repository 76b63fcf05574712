"""Photos: which of ten photographs a 32x32 patch was cut from.

python -m experiments.compare photos --estimators backprop dfa vnc nmnc
"""

from experiments.configuration import Config, Data, Model, Run

config = Config(
    Data("photos"),
    Model("conv", features=(32, 32, 64), strides=(2, 2, 1)),
    run=Run(log_every=300),
)
