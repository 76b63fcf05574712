"""Adds taps to Flax Linen models without changes to their source."""

from nmnc_jax.linen.interception import mirror_layers, tap_submodules
from nmnc_jax.linen.transformations import lift, scan

__all__ = ["lift", "mirror_layers", "scan", "tap_submodules"]
