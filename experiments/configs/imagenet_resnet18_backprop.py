"""ImageNet by ResNet-18, backpropagation.

python -m experiments.train imagenet_resnet18_backprop

90 epochs of batch 256 in bfloat16. Settings chosen here; not yet run on the real data.
"""

import dataclasses

from experiments.configs.imagenet_alexnet_backprop import config as alexnet

config = dataclasses.replace(
    alexnet, model="resnet18", learning_rate=1e-3, basis_batch=512, alignment_batch=512
)
