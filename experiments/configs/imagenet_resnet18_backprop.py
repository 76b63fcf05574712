"""ImageNet by ResNet-18, backpropagation.

python -m experiments.train imagenet_resnet18_backprop

90 epochs of batch 256 in bfloat16, by the recipe that is usual for ResNets: SGD with Nesterov's
momentum .9 at .1, 5 epochs of warm-up and a cosine, weight decay 1e-4, labels smoothed by .1. A
larger batch takes a learning rate as much larger, and as many steps fewer. For methods that learn
feedback the settings are chosen here. Not yet run on the real data.
"""

from experiments.configs.imagenet_alexnet_backprop import config as alexnet

config = alexnet.replace(
    model="resnet18",
    optimiser_settings=("momentum=0.9", "nesterov=True"),
    learning_rate=0.1,
    schedule="cosine",
    warmup=25_000,
    weight_decay=1e-4,
    label_smoothing=0.1,
    basis_batch=512,
    alignment_batch=512,
)
