"""Handwritten digits (mnist5k), read row by row by a GRU, any estimator.

python -m experiments.train rnn_mnist5k --estimator nmnc

Settings chosen here.
"""

from experiments.configuration import Config, Data, Method, Model, Run

config = Config(
    Data("mnist5k"),
    Model("gru", features=(128,)),
    method=Method(rank=64, feedback_decay=0.97, basis_batch=512, basis_update_every=50),
    run=Run(steps=2000, log_every=200),
)
