"""Digits: 1,797 handwritten digits of 8x8 pixels (scikit-learn's bundled set).

python -m experiments.train digits
"""

from experiments.config import Config

config = Config(
    data="digits",
    model="mlp",
    features=(128, 128),
    steps=1000,
    rank=32,
)
