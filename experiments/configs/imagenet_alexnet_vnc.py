"""ImageNet by AlexNet, isotropic noise correlation.

python -m experiments.train imagenet_alexnet_vnc

90 epochs of batch 256 in bfloat16. Settings chosen here; not yet run on the real data.
"""

from experiments.configs.imagenet_alexnet_backprop import config as shared

config = shared.replace(estimator="vnc")
