"""ImageNet by ResNet-50, mirrors of the layers' own weights.

python -m experiments.train imagenet_resnet50_mirror

90 epochs of batch 256 in bfloat16. Settings chosen here; not yet run on the real data.
"""

from experiments.configs.imagenet_resnet18_mirror import config as resnet18

config = resnet18.replace(model="resnet50")
