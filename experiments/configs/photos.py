"""Photos: which of ten photographs a 32x32 patch was cut from.

python -m experiments.compare photos --estimators backprop dfa vnc nmnc
"""

from experiments.configuration import Config

config = Config(
    data="photos",
    model="conv",
    features=(32, 32, 64),
    strides=(2, 2, 1),
    basis_update_every=100,
    basis_decay=0.7,
    log_every=300,
)
