"""Training: the trainer, the loop, checkpoints, devices."""
