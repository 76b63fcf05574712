"""The variance that the law of the probes gives, and the number of probes that it asks for."""

import dataclasses
import math
from collections.abc import Mapping

from nmnc_jax.layout import Layout, TapLayout, TapShape
from nmnc_jax.probes.probe import Probe

VARIANCE, COST = 0.25, 0.5
"""The relative variance that "auto" aims at, and a stage's largest cost relative to all stages."""


def relative_variance(
    probe: Probe, *, examples: float, steps: int, dimension: int, taps: int, isolated: bool
) -> float:
    """Returns the variance of a correlation relative to its square, for a linear response.

    Args:
        probe: the probe, with its number, kind and scope.
        examples: number of examples B that are averaged, times the positions that share weights.
        steps: number of time steps T that are perturbed together.
        dimension: number of directions d that are perturbed.
        taps: number of taps of the model.
        isolated: whether the response of each row depends only on the noise of that row.

    Returns:
        For N probes, (d + 1)/N if they are Gaussian, (d - 1)/N if they are Rademacher, and
        r (d - r)/N^2 if they are orthogonal and r of them are in an incomplete frame. Noise at each
        other tap or time step adds d/N, if its effect has the same size.
    """
    d, count = dimension, probe.count() * (probe.perturbed or examples * steps)
    if probe.kind == "orthogonal":
        own = (count % d) * (d - count % d) / count**2
    else:
        own = (d + (1 if probe.kind == "gaussian" else -1)) / count
    if isolated:
        return own
    # The average number of time steps of one example that are perturbed.
    sources = max(count / (probe.count() * examples), 1) * (
        taps if probe.scope == "all_taps" else 1
    )
    return own + (sources - 1) * d / count


def resolved(probe: Probe, layout: Layout, shapes: Mapping[str, TapShape]) -> Probe:
    """Returns a probe in which a number of "auto" is replaced by a number for each tap.

    Args:
        probe: the probe.
        layout: the layout of the model.
        shapes: shapes of the taps in a probe pass.
    """
    if probe.num != "auto":
        return probe

    behind = {tap.name: shapes[tap.name].rows * tap.shared for tap in layout.taps}
    cost = {tap.name: tap.size * behind[tap.name] for tap in layout.taps}

    def enough(tap: TapLayout) -> int:
        wanted = math.ceil(tap.directions / (VARIANCE * behind[tap.name]))
        return max(min(wanted, int(COST * sum(cost.values()) / cost[tap.name])), 1)

    return dataclasses.replace(probe, num={tap.name: enough(tap) for tap in layout.taps})
