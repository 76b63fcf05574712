"""The settings of probes: their number, kind, size, and how the response is measured."""

import dataclasses
from collections.abc import Mapping
from numbers import Integral
from typing import Literal, get_args

from nmnc_jax.checks import check_count, check_kind, check_sigma

Kind = Literal["gaussian", "rademacher", "orthogonal"]
Difference = Literal["central", "forward", "jvp"]
Scope = Literal["each_tap", "all_taps"]


@dataclasses.dataclass(frozen=True)
class Probe:
    """How a network is perturbed and how its response is measured.

    A field that is None is chosen by the method.

    Attributes:
        num: number of probes K per example and tap. For the readout `mirror` also a dict by the
            name of a linear stage, with 1 for stages that it does not name, or "auto". "auto" uses
            as many probes as reduce the variance of a stage's estimate to a quarter of its square,
            as long as they cost at most half of one probe of all stages.
        kind: distribution of the coordinates, each with unit variance. "orthogonal" draws Haar
            frames scaled by sqrt(d) over all probes that are averaged together (K x B for the
            readout `output`, K for `loss`); after d probes a new frame begins. If a frame spans
            several probes, all coordinates are drawn at once, otherwise probe by probe.
        difference: "central" [y(x+xi) - y(x-xi)]/2, "forward" y(x+xi) - y(x), or "jvp", the exact
            directional derivative (no bias, no cancellation, works in bfloat16).
        sigma: root mean square of the perturbation per unit, relative to the tap's RMS activity.
            For equal sigma, perturbations in subspaces of any dimension have the same energy.
            "jvp" does not use it.
        scope: "each_tap" perturbs one tap at a time. "all_taps" perturbs all taps in the same pass,
            which needs fewer passes and adds the variance of the other taps' perturbations.
        chunk: largest number of probes in memory at once; the largest divisor of `num` up to it is
            used. None is one probe, which is fastest on CPU; a GPU or TPU may take more, but with
            convolutions several devices compute more than one probe on each of them instead of
            dividing the examples. It changes results only by rounding.
        rows: number of examples in the probe pass, which are drawn anew each time and gathered, so
            that the cost decreases with their number. Several devices divide them if it is a
            divisor of the batch and a multiple of the devices. Arrays of inputs and targets that
            have as many rows as the batch must then have examples first. None uses all examples.
            The readout `loss` takes None.
        perturbed: number of a tap's rows (its examples, in a scan at each time step) that are
            perturbed, which are drawn anew each time. Their responses are scaled so that the
            estimate stays unbiased. The pass costs as much as with all rows; this is for studies
            of few probes through time. None perturbs all. The readout `loss` takes None.

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> from nmnc_jax import Probe
        >>> Probe(num=4).over(Probe(num=8, kind="orthogonal", difference="jvp")).kind
        'orthogonal'
        >>> Probe(num=12, chunk=8).chunk_size()
        6
    """

    num: int | Mapping[str, int] | Literal["auto"] | None = None
    kind: Kind | None = None
    difference: Difference | None = None
    sigma: float = 1e-3
    scope: Scope | None = None
    chunk: int | None = None
    rows: int | None = None
    perturbed: int | None = None

    def __post_init__(self):
        for name, takes in (("kind", Kind), ("difference", Difference), ("scope", Scope)):
            value = getattr(self, name)
            if value is not None and value not in get_args(takes):
                raise ValueError(f"{name} is {value!r}; it takes one of {list(get_args(takes))}")
        check_sigma(self.sigma)
        for name in ("chunk", "rows", "perturbed"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if isinstance(self.num, Mapping):
            for name, num in self.num.items():
                check_count(f"num[{name!r}]", num)
        elif self.num is not None and self.num != "auto":
            check_count("num", self.num)

    def over(self, choice: "Probe") -> "Probe":
        """Returns this probe with the fields that are None taken from `choice`."""
        check_kind("probe", self, Probe)
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        return dataclasses.replace(choice, **given)

    def at(self, name: str) -> "Probe":
        """Returns this probe with the number of probes at one tap."""
        if not isinstance(self.num, Mapping):
            return self
        return dataclasses.replace(self, num=self.num.get(name, 1))

    def count(self) -> int:
        """Returns the number of probes K per example.

        Raises:
            ValueError: if the number differs between taps.
        """
        if self.num is None or isinstance(self.num, Integral):
            return int(self.num or 1)
        raise ValueError(
            f"num is {self.num!r}; only readout 'mirror' takes a dict or 'auto', others take a "
            "number"
        )

    def chunk_size(self) -> int:
        """Returns the number of probes in memory: the largest divisor of `num` up to `chunk`."""
        num, limit = self.count(), self.chunk or 1
        return max(size for size in range(1, min(limit, num) + 1) if num % size == 0)


DEFAULT = Probe(num=8, kind="gaussian", difference="central", scope="each_tap")
"""The default probe of the general method."""
