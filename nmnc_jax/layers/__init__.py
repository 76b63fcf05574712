"""Finds the linear layers of a model of any framework in its trace and marks them as stages.

A layer is a product or a convolution (``dot_general``, ``conv_general_dilated``) of its weights,
which depend only on parameters, with a value that depends on the inputs. The trace is run again,
equation by equation, with ``tap.linear`` in place of these equations.
"""

from nmnc_jax.layers.marking import mirror_layers

__all__ = ["mirror_layers"]
