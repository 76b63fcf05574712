"""Trained networks with Brain-Score's model interface. Needs the `brainscore` extra.

Brain-Score is not needed, and the extra does not install it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis.activity import recorder
from experiments.data import InMemory
from experiments.data.assemblies import xarray
from experiments.data.pictures import picture
from experiments.errors import UserError
from experiments.training.position import trained_network


class NetworkModel:
    """A trained network as a subject of Brain-Score's benchmarks.

    It implements `identifier`, `visual_degrees`, `start_recording` and `look_at` of their public
    interface, and no tasks. Responses are those of the tap that represents the recorded region.
    They are the same in every time bin, because the network has no time.

    Attributes:
        identifier: the model's name.

    Example:
        >>> model = NetworkModel.from_run(
        ...     Path("runs/cifar10-nmnc"), regions={"V4": "conv2"})  # doctest: +SKIP
        >>> model.start_recording("V4", time_bins=[(70, 170)])  # doctest: +SKIP
        >>> model.look_at(stimuli).dims  # doctest: +SKIP
        ('presentation', 'neuroid', 'time_bin')
    """

    def __init__(
        self,
        identifier: str,
        activity: Callable[[np.ndarray], Mapping[str, Any]],
        *,
        side: int,
        regions: Mapping[str, str],
        degrees: int = 8,
        assembly: Callable[..., Any] = xarray.DataArray,
    ):
        """Wraps a network.

        Args:
            identifier: the model's name.
            activity: function of pictures, uint8 [images, side, side, 3], that returns activity by
                tap name, [images, n].
            side: side of the pictures that the network takes.
            regions: region (V1, V2, V4, IT) to the tap that represents it.
            degrees: degrees of the visual field that an image covers.
            assembly: class of what `look_at` returns, such as brainio's NeuroidAssembly.
        """
        self.identifier = identifier
        self._activity, self._side, self._regions = activity, side, dict(regions)
        self._degrees, self._assembly = degrees, assembly
        self._tap = ""
        self._bins: list[tuple[int, int]] = []

    @classmethod
    def from_run(cls, directory: Path, *, regions: Mapping[str, str], **options: Any):
        """Wraps the network that ``python -m experiments.train --out DIR`` has trained.

        Args:
            directory: directory of the run.
            regions: region to the tap that represents it.
            **options: further arguments of the class.

        Raises:
            UserError: if the directory contains no run, or if a region's tap is unknown.
        """
        config, data, params = trained_network(directory)
        if not isinstance(data, InMemory):
            raise UserError(f"{directory} is a run on {config.data.name}; this takes one on images")
        record = recorder(config, data, params)

        def activity(images: np.ndarray) -> dict[str, np.ndarray]:
            return record(data.presented(images))

        side = data.train_inputs.shape[1]
        taps = activity(np.zeros((1, side, side, 3), np.uint8))
        for region, tap in regions.items():
            if tap not in taps:
                raise UserError(f"regions[{region!r}] is {tap!r}; the network has {sorted(taps)}")
        return cls(directory.name, activity, side=side, regions=regions, **options)

    def visual_degrees(self) -> int:
        """Degrees of the visual field that an image covers."""
        return self._degrees

    def start_task(self, task: Any, fitting_stimuli: Any = None) -> None:
        """Raises an error, because the network does no tasks.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"task is {task!r}; this model records only")

    def start_recording(self, recording_target: Any, time_bins: Sequence[tuple[int, int]]) -> None:
        """Sets the region and the time bins that `look_at` records.

        Raises:
            ValueError: if no tap represents the region.
        """
        region = getattr(recording_target, "name", recording_target)
        if region not in self._regions:
            raise ValueError(
                f"recording_target is {region!r}; this model takes {sorted(self._regions)}"
            )
        self._tap, self._bins = self._regions[region], list(time_bins)

    def look_at(self, stimuli: Any, number_of_trials: int = 1) -> Any:
        """Returns the responses to stimuli.

        Args:
            stimuli: a stimulus set: a table with the column stimulus_id and a method
                ``get_stimulus(id)`` that returns the path of a file.
            number_of_trials: ignored, because every trial is the same.

        Returns:
            An assembly, presentation x neuroid x time_bin.

        Raises:
            ValueError: if `start_recording` was not called.
        """
        if not self._tap:
            raise ValueError("look_at before start_recording")
        names = list(stimuli["stimulus_id"])
        pictures = []
        for name in names:
            path = Path(stimuli.get_stimulus(name))
            pictures.append(picture(path.read_bytes(), str(path), self._side))
        rows = np.asarray(self._activity(np.stack(pictures))[self._tap])
        starts, ends = zip(*self._bins, strict=True)
        return self._assembly(
            np.repeat(rows[:, :, None], len(self._bins), axis=2),
            coords={
                "stimulus_id": ("presentation", names),
                "neuroid_id": ("neuroid", np.arange(rows.shape[1])),
                "layer": ("neuroid", [self._tap] * rows.shape[1]),
                "time_bin_start": ("time_bin", list(starts)),
                "time_bin_end": ("time_bin", list(ends)),
            },
            dims=("presentation", "neuroid", "time_bin"),
        )
