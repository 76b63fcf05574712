"""Three-bit flip-flop memory by a recurrent network of leaky units, any estimator.

python -m experiments.train rnn_flip_flop --estimator nmnc

Settings chosen here.
"""

from experiments.configuration import Config, Data, Method, Model, Run

config = Config(
    Data("flip_flop"),
    Model("leaky", features=(256,)),
    method=Method(rank=32, basis_batch=256, basis_update_every=50),
    run=Run(steps=2000, log_every=500),
)
