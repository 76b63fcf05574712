"""Recordings in Brain-Score's layout, and a trained network behind its model interface."""

import zipfile

import jax
import numpy as np
import pytest
import xarray

from benchmarks.made_imagenet import encoded, photo
from experiments import train
from experiments.analysis.brainscore import NetworkModel
from experiments.data.assemblies import responses_of
from experiments.data.neural import load_neural
from experiments.errors import UserError


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def assembly(stimuli, values=None, **dims):
    """Responses [presentations, neurons] in Brain-Score's layout."""
    values = np.arange(len(stimuli) * 3.0).reshape(len(stimuli), 3) if values is None else values
    return xarray.DataArray(
        values,
        coords={"stimulus_id": ("presentation", stimuli)},
        dims=("presentation", "neuroid", *dims),
    )


def test_presentations_are_sorted_by_stimulus_and_repeat():
    stimuli, responses = responses_of(assembly(["b", "a", "b"]), "x")
    assert stimuli == ["a", "b"]
    np.testing.assert_array_equal(responses[:, 1], [[0, 1, 2], [6, 7, 8]])
    np.testing.assert_array_equal(responses[0, 0], [3, 4, 5])
    assert np.isnan(responses[1, 0]).all()
    turned, timed = assembly(["b", "a"]).T, assembly(["b", "a"]).expand_dims("time_bin", axis=2)
    for same in (turned, timed):
        np.testing.assert_array_equal(responses_of(same, "x")[1][0], [[3, 4, 5], [0, 1, 2]])


def test_assemblies_of_another_layout_are_refused():
    two_bins = assembly(["a", "b"], np.zeros((2, 3, 2)), time_bin=2)
    with pytest.raises(UserError, match=r"x has dimensions .*'time_bin': 2.*; it takes"):
        responses_of(two_bins, "x")
    with pytest.raises(UserError, match="x has no coordinate stimulus_id"):
        responses_of(assembly(["a"]).drop_vars("stimulus_id"), "x")


def packed(path, content, images=("a", "b", "c")):
    with zipfile.ZipFile(path, "w") as file:
        for number, name in enumerate(images):
            file.writestr(f"images/{name}.png", encoded(photo(number), "PNG"))
        file.writestr("recording.nc", content)
    return path


def test_a_netcdf_assembly_is_read_with_the_images_that_it_shows(tmp_path):
    assembly(["c", "a", "c"]).to_dataset(name="data").to_netcdf(tmp_path / "one.nc")
    content = (tmp_path / "one.nc").read_bytes()
    loaded = load_neural(packed(tmp_path / "it.zip", content), 16)
    assert loaded.images.shape == (2, 16, 16, 3)
    assert np.abs(loaded.images[1] - np.asarray(photo(2).resize((16, 16)), float)).mean() < 20
    np.testing.assert_array_equal(loaded.responses[:, 1], [[0, 1, 2], [6, 7, 8]])
    with pytest.raises(UserError, match="has no image of stimulus 'c'"):
        load_neural(packed(tmp_path / "less.zip", content, ["a", "b"]), 16)
    with pytest.raises(UserError, match=r"recording\.nc cannot be read"):
        load_neural(packed(tmp_path / "broken.zip", b"none"), 16)


class Stimuli(dict):
    """A stimulus set: a table that knows its files."""

    def get_stimulus(self, stimulus_id):
        return self["folder"] / f"{stimulus_id}.png"


def test_a_trained_network_answers_as_a_subject(tmp_path):
    out = tmp_path / "run"
    train.main(["digits", "--steps", "2", "--basis-batch", "64", "--alignment-batch", "64",
                "--rank", "4", "--devices", "1", "--out", str(out)])  # fmt: skip
    model = NetworkModel.from_run(out, regions={"IT": "conv1"})
    assert model.identifier == "run"
    assert model.visual_degrees() == 8
    for number in range(2):
        picture = encoded(photo(number), "PNG")
        (tmp_path / f"{number}.png").write_bytes(picture)
    stimuli = Stimuli(stimulus_id=["1", "0"], folder=tmp_path)
    with pytest.raises(ValueError, match="look_at before start_recording"):
        model.look_at(stimuli)
    with pytest.raises(ValueError, match="recording_target is 'V1'; this model takes"):
        model.start_recording("V1", [(70, 170)])
    with pytest.raises(NotImplementedError, match="task is 'label'; this model records only"):
        model.start_task("label")
    model.start_recording("IT", [(70, 170), (170, 270)])
    seen = model.look_at(stimuli, number_of_trials=3)
    assert seen.dims == ("presentation", "neuroid", "time_bin")
    assert seen["time_bin_end"].to_numpy().tolist() == [170, 270]
    np.testing.assert_array_equal(seen[:, :, 0], seen[:, :, 1])
    alone = model.look_at(Stimuli(stimulus_id=["0"], folder=tmp_path))
    np.testing.assert_allclose(alone[0], seen[1], atol=1e-5)
    assert np.abs(seen[0] - seen[1]).max() > 0.1
    # What it has shown can be read as a recording.
    stimuli, responses = responses_of(seen.isel(time_bin=[0]), "x")
    assert stimuli == ["0", "1"]
    np.testing.assert_allclose(responses[0, 1], seen[0, :, 0], atol=1e-6)
    with pytest.raises(UserError, match=r"regions\['V4'\] is 'conv9'; the network has"):
        NetworkModel.from_run(out, regions={"V4": "conv9"})
    with pytest.raises(UserError, match="holds no run; make one with --out"):
        NetworkModel.from_run(tmp_path, regions={})
