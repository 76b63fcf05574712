"""Characters of Python's language reference by a small causal transformer, any estimator.

python -m experiments.train characters --estimator nmnc

Settings chosen here.
"""

from experiments.configuration import Config, Data, Model, Optimiser, Run

config = Config(
    Data("characters", time_steps=32),
    Model("transformer", features=(64, 64)),
    optimiser=Optimiser(learning_rate=3e-3),
    run=Run(steps=500, alignment_batch=512),
)
