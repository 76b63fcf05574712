"""Recordings in Brain-Score's layout: xarray assemblies. Needs the `brainscore` extra."""

import io

import numpy as np

from experiments.errors import UserError, in_one_line

try:
    import xarray
except ImportError as error:
    raise UserError(
        "assemblies take xarray, which is not installed: pip install 'nmnc_jax[brainscore]'"
    ) from error


def read_assembly(content: bytes, told: str) -> tuple[list[str], np.ndarray]:
    """Reads a NetCDF file with one assembly, as `responses_of` gives it.

    Raises:
        UserError: if it cannot be read, or as `responses_of` does.
    """
    try:
        with xarray.open_dataset(io.BytesIO(content)) as dataset:
            arrays = [a.load() for a in dataset.data_vars.values() if "presentation" in a.dims]
    except Exception as error:  # Each of xarray's engines raises its own kinds.
        raise UserError(f"{told} cannot be read: {in_one_line(error)}") from error
    if len(arrays) != 1:
        raise UserError(
            f"{told} has {len(arrays)} variables along presentations; it takes one assembly"
        )
    return responses_of(arrays[0], told)


def responses_of(assembly: xarray.DataArray, told: str) -> tuple[list[str], np.ndarray]:
    """Sorts an assembly's presentations by stimulus and repeat.

    Args:
        assembly: responses with the dimensions presentation and neuroid (and one time bin at most),
            and the coordinate stimulus_id along presentations.
        told: its name, for errors.

    Returns:
        Names of the stimuli, sorted, and responses [repeats, stimuli, neurons]; NaN where a
        stimulus was shown less often than others.

    Raises:
        UserError: naming what the assembly lacks.
    """
    others = {name: size for name, size in assembly.sizes.items()
              if name not in ("presentation", "neuroid")}  # fmt: skip
    if not {"presentation", "neuroid"} <= set(assembly.dims) or max(others.values(), default=1) > 1:
        raise UserError(
            f"{told} has dimensions {dict(assembly.sizes)}; it takes presentation and neuroid "
            "(with one time bin at most)"
        )
    if "stimulus_id" not in assembly.coords:
        raise UserError(f"{told} has no coordinate stimulus_id along its presentations")
    values = assembly.squeeze(list(others)).transpose("presentation", "neuroid").to_numpy()
    if not values.size or values.dtype.kind not in "buif":
        raise UserError(
            f"{told} has {values.dtype} responses of shape {values.shape}; it takes numbers"
        )
    shown = np.array([str(name) for name in assembly["stimulus_id"].to_numpy()])
    stimuli, places, counts = np.unique(shown, return_inverse=True, return_counts=True)
    responses = np.full((counts.max(), len(stimuli), values.shape[1]), np.nan, np.float32)
    seen = np.zeros(len(stimuli), int)
    for place, value in zip(places, values, strict=True):
        responses[seen[place], place] = value
        seen[place] += 1
    return stimuli.tolist(), responses
