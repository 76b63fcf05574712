"""ImageNet by AlexNet, backpropagation.

python -m experiments.train imagenet_alexnet_backprop

90 epochs of batch 256 in bfloat16, by the recipe that is usual for AlexNet with this batch: SGD
with momentum .9 at .01, divided by ten after 1/3, 2/3 and 8/9 of them, weight decay 5e-4. For
methods that learn feedback the settings are chosen here. Not yet run on the real data.
"""

from experiments.configuration import Config, Data, Method, Model, Optimiser, Run

config = Config(
    Data("imagenet2012"),
    Model("alexnet", precision="bfloat16"),
    method=Method(
        "backprop",
        rank=256,
        scope="all_taps",
        feedback_decay=0.99,
        update_every=10,
        basis_batch=1024,
        basis_update_every=1000,
    ),
    optimiser=Optimiser(
        "sgd",
        optimiser_settings=("momentum=0.9",),
        learning_rate=0.01,
        schedule="steps",
        weight_decay=5e-4,
    ),
    run=Run(steps=450_000, batch=256, log_every=5000, checkpoint_every=5000, alignment_batch=1024),
)
