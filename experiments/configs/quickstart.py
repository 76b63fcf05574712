"""Photos by wide convolutions, at the library's defaults: the first figure.

python -m experiments.compare quickstart --seeds 4

Which of ten photographs a 32x32 patch was cut from. One probe an example in every tenth step is
few for taps of 16,384 units, which is where the manifold helps.
"""

from experiments.configs.photos import config as photos

config = photos.replace(
    features=(64, 32, 32),
    kind="orthogonal",
    update_every=10,
    validation=True,
    batch=32,
    steps=500,
    log_every=250,
    alignment_batch=256,
)
