"""Photos by a small vision transformer: 16 patches of 8x8, three blocks of width 64.

python -m experiments.compare photos_vit
"""

from experiments.configuration import Config, Data, Method, Model, Run

config = Config(
    Data("photos"),
    Model("vit", features=(64, 64, 64)),
    method=Method(rank=256),
    run=Run(steps=600, log_every=300),
)
