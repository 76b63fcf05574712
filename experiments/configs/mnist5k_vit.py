"""MNIST, 5,000 digits, by a small vision transformer: 16 patches of 7x7, three blocks of width 64.

python -m experiments.compare mnist5k_vit
"""

from experiments.config import Config

config = Config(
    data="mnist5k",
    model="vit",
    features=(64, 64, 64),
    patch=7,
    basis_update_every=100,
    basis_decay=0.7,
    steps=1000,
    log_every=250,
)
