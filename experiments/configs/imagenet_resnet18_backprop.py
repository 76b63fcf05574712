"""ImageNet by ResNet-18, backpropagation.

python -m experiments.train imagenet_resnet18_backprop

90 epochs of batch 256 in bfloat16. Settings chosen here; not yet run on the real data.
"""

from experiments.config import Config

config = Config(
    data="imagenet2012",
    model="resnet18",
    precision="bfloat16",
    estimator="backprop",
    batch=256,
    steps=450_000,
    learning_rate=1e-3,
    rank=256,
    scope="all_taps",
    feedback_decay=0.99,
    update_every=10,
    basis_batch=512,
    basis_update_every=1000,
    basis_decay=0.7,
    log_every=5000,
    checkpoint_every=5000,
    alignment_batch=512,
)
