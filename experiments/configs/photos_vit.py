"""Photos by a small vision transformer: 16 patches of 8x8, three blocks of width 64.

python -m experiments.compare photos_vit
"""

from experiments.configuration import Config

config = Config(
    data="photos",
    model="vit",
    features=(64, 64, 64),
    basis_update_every=100,
    basis_decay=0.7,
    steps=600,
    rank=256,
    log_every=300,
)
