"""What is known of a model before anything is computed: taps, stages and alignment in time."""

from nmnc_jax.layout.nodes import (
    check_batch_axes,
    examples_of,
    read_weights_and_input,
    tap_shapes,
    trace_nodes,
    with_one_more,
)
from nmnc_jax.layout.remembered import Layout, TapLayout
from nmnc_jax.layout.rows import (
    at_least_float32,
    flatten,
    flatten_stage,
    floating_leaves,
    has_time_of,
    matrices,
    output_rows,
    unflatten,
)
from nmnc_jax.layout.shapes import LinearShape, Nodes, TapShape
from nmnc_jax.layout.structure import Structure, find_structure, has_marks_in_scans, stages_of

__all__ = [
    "Layout",
    "LinearShape",
    "Nodes",
    "Structure",
    "TapLayout",
    "TapShape",
    "at_least_float32",
    "check_batch_axes",
    "examples_of",
    "find_structure",
    "flatten",
    "flatten_stage",
    "floating_leaves",
    "has_marks_in_scans",
    "has_time_of",
    "matrices",
    "output_rows",
    "read_weights_and_input",
    "stages_of",
    "tap_shapes",
    "trace_nodes",
    "unflatten",
    "with_one_more",
]
