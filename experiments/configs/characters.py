"""Characters of Python's language reference by a small causal transformer, any estimator.

python -m experiments.train characters --estimator nmnc

Settings chosen here.
"""

from experiments.configuration import Config

config = Config(
    data="characters",
    model="transformer",
    features=(64, 64),
    time_steps=32,
    steps=500,
    learning_rate=3e-3,
    rank=64,
    basis_update_every=100,
    basis_decay=0.7,
    alignment_batch=512,
)
