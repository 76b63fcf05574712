"""Delayed match to sample by a recurrent network of leaky units, any estimator.

python -m experiments.train rnn_match --estimator nmnc

Settings chosen here.
"""

from experiments.configs.rnn_flip_flop import config as flip_flop

config = flip_flop.replace(data="match")
