"""Context-dependent integration by a recurrent network of noisy leaky units, any estimator.

python -m experiments.train rnn_context --estimator nmnc

Settings chosen here.
"""

from experiments.configs.rnn_flip_flop import config as flip_flop

config = flip_flop.replace(data="context", noise=0.1)
