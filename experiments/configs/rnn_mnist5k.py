"""Handwritten digits (mnist5k), read row by row by a GRU, any estimator.

python -m experiments.train rnn_mnist5k --estimator nmnc

Settings chosen here.
"""

from experiments.configuration import Config

config = Config(
    data="mnist5k",
    model="gru",
    features=(128,),
    rank=64,
    feedback_decay=0.97,
    basis_batch=512,
    basis_update_every=50,
    basis_decay=0.7,
    steps=2000,
    log_every=200,
)
