"""Reads recordings in Brain-Score's layout, xarray assemblies. Needs the `brainscore` extra."""

import io

import numpy as np

from experiments.errors import UserError, in_one_line

try:
    import xarray
except ImportError as error:
    raise UserError(
        "assemblies need xarray, which is not installed: pip install 'nmnc_jax[brainscore]'"
    ) from error


def read_assembly(content: bytes, name: str) -> tuple[list[str], np.ndarray]:
    """Reads a NetCDF file with one assembly, and returns what `responses_of` returns.

    Raises:
        UserError: if the file cannot be read, or if `responses_of` raises.
    """
    try:
        with xarray.open_dataset(io.BytesIO(content)) as dataset:
            arrays = [a.load() for a in dataset.data_vars.values() if "presentation" in a.dims]
    except Exception as error:  # Each engine of xarray raises other types of errors.
        raise UserError(f"{name} cannot be read: {in_one_line(error)}") from error
    if len(arrays) != 1:
        raise UserError(
            f"{name} has {len(arrays)} variables along presentations; it takes one assembly"
        )
    return responses_of(arrays[0], name)


def responses_of(assembly: xarray.DataArray, name: str) -> tuple[list[str], np.ndarray]:
    """Sorts an assembly's presentations by stimulus and repeat.

    Args:
        assembly: responses with the dimensions presentation and neuroid (and at most one time bin),
            and the coordinate stimulus_id along presentations.
        name: name of the assembly, for errors.

    Returns:
        Names of the stimuli, sorted, and responses [repeats, stimuli, neurons], which are NaN if a
        stimulus was shown less often than others.

    Raises:
        UserError: if the assembly has other dimensions, no coordinate or no numbers.
    """
    others = {axis: size for axis, size in assembly.sizes.items()
              if axis not in ("presentation", "neuroid")}  # fmt: skip
    if not {"presentation", "neuroid"} <= set(assembly.dims) or max(others.values(), default=1) > 1:
        raise UserError(
            f"{name} has dimensions {dict(assembly.sizes)}; it takes presentation and neuroid "
            "(with at most one time bin)"
        )
    if "stimulus_id" not in assembly.coords:
        raise UserError(f"{name} has no coordinate stimulus_id along its presentations")
    values = assembly.squeeze(list(others)).transpose("presentation", "neuroid").to_numpy()
    if not values.size or values.dtype.kind not in "buif":
        raise UserError(
            f"{name} has {values.dtype} responses of shape {values.shape}; it takes numbers"
        )
    shown = np.array([str(each) for each in assembly["stimulus_id"].to_numpy()])
    stimuli, places, counts = np.unique(shown, return_inverse=True, return_counts=True)
    responses = np.full((counts.max(), len(stimuli), values.shape[1]), np.nan, np.float32)
    seen = np.zeros(len(stimuli), int)
    for place, value in zip(places, values, strict=True):
        responses[seen[place], place] = value
        seen[place] += 1
    return stimuli.tolist(), responses
