"""ImageNet by ResNet-18, direct feedback alignment.

python -m experiments.train imagenet_resnet18_dfa

90 epochs of batch 256 in bfloat16. Settings chosen here; not yet run on the real data.
"""

from experiments.configs.imagenet_resnet18_backprop import config as shared

config = shared.replace(estimator="dfa")
