"""Three-bit flip-flop memory by a recurrent network of leaky units, any estimator.

python -m experiments.train rnn_flip_flop --estimator nmnc

Settings chosen here.
"""

from experiments.configuration import Config

config = Config(
    data="flip_flop",
    model="leaky",
    features=(256,),
    rank=32,
    basis_batch=256,
    basis_update_every=50,
    basis_decay=0.7,
    steps=2000,
    log_every=500,
)
