"""MNIST, 5,000 digits of 28x28 pixels, by the transformer of `photos_vit` with patches of 7x7.

python -m experiments.compare mnist5k_vit
"""

from experiments.configs.photos_vit import config as photos_config

config = photos_config.replace(data="mnist5k", patch=7)
