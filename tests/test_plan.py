"""Plans: what the compiler says of a run's programs, for chips that need not be there."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from experiments import plan
from experiments.configs import load_config
from experiments.data.described import describe
from experiments.errors import UserError
from experiments.plan import remedy
from experiments.planning.collectives import collectives, size_of
from experiments.planning.compiled import (
    Cost,
    Program,
    TooLarge,
    compile_cost,
    operations,
)
from experiments.planning.programs import NOTHING, Plan
from experiments.planning.topology import Topology

FIGURES = {"compile_seconds", "flops", "bytes_accessed", "argument_bytes", "temporary_bytes",
           "output_bytes"}  # fmt: skip
SMALL = [
    *("--model", "mlp", "--features", "16", "--strides", "--rank", "4", "--basis-batch", "16"),
    *("--batch", "32", "--update-every", "2", "--basis-update-every", "4", "--steps", "8"),
]


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def divided_program(kind):
    """A program of one collective of known size on 8 devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    by_row, by_column, whole = (
        NamedSharding(mesh, PartitionSpec(*spec)) for spec in (("data",), (None, "data"), ())
    )
    rows = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=by_row)
    functions = {
        "all-reduce": (lambda x: x.T @ x, whole),
        "all-gather": (lambda x: x * 2, whole),
        "all-to-all": (lambda x: x * 2, by_column),
    }
    function, out = functions[kind]
    return Program(kind, NOTHING, jax.jit(function, out_shardings=out), (rows,), {})


@pytest.mark.parametrize(
    ("kind", "size"), [("all-reduce", 16 * 16), ("all-gather", 64 * 16), ("all-to-all", 8 * 16)]
)
def test_collectives_are_counted_by_kind_and_bytes(kind, size):
    cost = compile_cost(divided_program(kind))
    assert isinstance(cost, Cost)
    assert cost.collective_bytes == {kind: 4 * size}
    assert cost.argument_bytes == 4 * 64 * 16 // 8


def test_operations_of_a_traced_program_are_those_of_all_devices():
    """So they are counted for GPUs, whose compiler does not count convolutions."""
    divided = divided_program("all-reduce")
    product = 2 * 64 * 16 * 16 / 8
    found = [operations(divided) / 8, compile_cost(divided).flops]
    np.testing.assert_allclose(found, product, rtol=0.1)


def test_a_loop_on_each_device_counts_on_all_of_them():
    rows = divided_program("all-reduce").arguments[0]

    def power(x):
        return jax.lax.scan(lambda h, _: (h @ h.T @ h, None), x, length=5)[0]

    spec = PartitionSpec("data")
    each = jax.jit(jax.shard_map(power, mesh=rows.sharding.mesh, in_specs=spec, out_specs=spec))
    program = Program("", NOTHING, each, (rows,), {})
    # Transposing counts the rest.
    product = 5 * 2 * (2 * 8 * 8 * 16)
    found = [operations(program) / 8, compile_cost(program).flops]
    np.testing.assert_allclose(found, product, rtol=0.05)


def test_every_iteration_of_a_loop_counts():
    here = SingleDeviceSharding(jax.devices()[0])
    weights = jax.ShapeDtypeStruct((16, 16), jnp.float32, sharding=here)

    def power(w):
        def inner(h, _):
            return jax.lax.scan(lambda h, _: (h @ w, (h @ w.T).sum()), h, length=3)[0], None

        return jax.lax.scan(inner, w, length=5)[0]

    program = Program("", NOTHING, jax.jit(power), (weights,), {})
    # What the scan also sums up is not used.
    expected = 5 * 3 * 2 * 16**3
    found = [compile_cost(program).flops, operations(program)]
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_collectives_in_two_parts_and_of_tuples_count_once():
    text = """
      %p = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
      %q = f32[4]{0} parameter(1)
      %start = (bf16[8,128]{1,0}, bf16[32,128]{1,0}) all-gather-start(%p), dimensions={0}
      %done = bf16[32,128]{1,0:T(8,128)(2,1)} all-gather-done(%start)
      %sum = (bf16[8,128]{1,0}, f32[4]{0}) all-reduce(%p, %q), to_apply=%add
      %once = bf16[8,128]{1,0} all-to-all(%p), channel_id=3, dimensions={0}
      %again = bf16[8,128]{1,0} all-to-all(%p), channel_id=3, dimensions={0}
      ROOT %part = bf16[2,128]{1,0} reduce-scatter(%p), dimensions={0}
    """
    assert collectives(text) == {
        "all-gather": 2 * 32 * 128,
        "all-reduce": 2 * 8 * 128 + 16,
        "all-to-all": 2 * 8 * 128,
        "reduce-scatter": 2 * 8 * 128,
    }
    assert size_of("(pred[3], s4[3]{0}, f8e4m3fn[2,2], token[], f32[])") == 3 + 2 + 4 + 4


COUNTED = ', backend_config={"known_trip_count":{"n":"3"}}'
LOOPS = """
%add (x: f32[], y: f32[]) -> f32[] {{
  ROOT %sum = f32[] add(%x, %y)
}}

%condition.1 (state: (s32[], f32[8])) -> pred[] {{
  %constant.1 = s32[]{{:T(128)}} constant(3)
  %place = s32[]{{:T(128)}} get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%place, %constant.1), direction=LT
}}

%gathered (part: bf16[2,16]) -> bf16[6,16] {{
  ROOT %whole = bf16[6,16]{{1,0}} all-gather(%part), dimensions={{0}}
}}

%body.1 (state: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %value = f32[8]{{0}} get-tuple-element(%state), index=1
  %reduced = f32[8]{{0}} all-reduce(%value), channel_id=1, to_apply=%add
  %part = bf16[2,16]{{1,0}} constant(0)
  %called = bf16[6,16]{{1,0}} fusion(%part), kind=kLoop, calls=%gathered
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %loop = (s32[], f32[8]) while(%start), condition=%condition.1, body=%body.1{counted}
  ROOT %last = f32[2]{{0}} all-reduce(%end), channel_id=2, to_apply=%add
}}
"""


@pytest.mark.parametrize("counted", ["", COUNTED])
def test_collectives_in_a_loop_count_in_each_iteration(counted):
    """By the compiler's count (CPU), or by the condition of the loop (TPU)."""
    text = LOOPS.format(counted=counted)
    assert collectives(text) == {"all-reduce": 3 * 4 * 8 + 4 * 2, "all-gather": 3 * 2 * 6 * 16}
    dynamic = text.replace("constant(3)", "copy(%x)").replace(COUNTED, "")
    assert collectives(dynamic) == {"all-reduce": 4 * 8 + 4 * 2, "all-gather": 2 * 6 * 16}


def test_a_plan_names_every_program_of_the_schedule(tmp_path, capsys):
    out = tmp_path / "plan.json"
    plan.main(["digits", *SMALL, "--topology", "cpu", "--devices", "8", "--json", str(out)])
    planned = json.loads(out.read_text())
    assert (planned["topology"], planned["chips"], planned["fits"]) == ("cpu", 8, None)
    dues = [each["due"] for each in planned["programs"]]
    due = [(each["probe"], each["move"]) for each in dues]
    assert due == [(False, False), (True, False), (False, True)]
    # Steps 0, 2, 4 and 6 probe, before step 4 the basis moves.
    flops = [each["flops"] for each in planned["programs"]]
    mean = (4 * flops[0] + 4 * flops[1] + flops[2]) / 8
    assert planned["mean_flops_ratio"] == pytest.approx(mean / planned["backprop"]["flops"])
    for each in (*planned["programs"], planned["init"], planned["evaluation"], planned["backprop"]):
        assert all(each[figure] > 0 for figure in FIGURES - {"temporary_bytes"})
        assert isinstance(each["collective_bytes"], dict)
    gradients = planned["backprop"]["collective_bytes"]["all-reduce"]
    assert 4 * (64 * 16 + 16 * 10) < gradients < 4 * (64 * 16 + 16 * 10) + 200
    names = [each["name"] for each in planned["programs"]]
    assert names == ["step", "step with probes", "basis update"]
    shown = capsys.readouterr().out
    assert all(f"{name}: compiled in" in shown for name in names)


@pytest.mark.parametrize(
    ("topology", "message"),
    [("v5e", "topology is 'v5e'; it takes one of v5e:AxB"), ("v9:2x2", "topology is 'v9:2x2'")],
)
def test_unknown_topologies_are_refused(topology, message):
    with pytest.raises(UserError, match=message):
        plan.main(["digits", "--topology", topology])


def test_programs_are_measured_where_they_can_run(tmp_path):
    out = tmp_path / "plan.json"
    more = ["--estimator", "backprop", "--devices", "1", "--measure", "--json", str(out)]
    plan.main(["digits", *SMALL, "--topology", "cpu", *more])
    planned = json.loads(out.read_text())
    for each in (*planned["programs"], planned["init"], planned["evaluation"], planned["backprop"]):
        assert 0 < each["seconds"] < 10
    assert planned["mean_flops_ratio"] == 1


@pytest.mark.parametrize(
    ("name", "side", "classes", "size"),
    [("cifar10", 32, 10, 50_000), ("imagenet_resnet18_nmnc", 224, 1000, 1_281_167)],
)
def test_described_data_have_the_shapes_of_the_real_ones(name, side, classes, size):
    data = describe(load_config(name))
    images, targets = data.train_examples(np.arange(2))
    assert images.shape == (2, side, side, 3)
    assert (data.outputs, data.train_size, targets.dtype) == (classes, size, np.int32)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU's compiler, is missing"
)
def test_a_step_compiles_for_tpus_that_are_not_there(tmp_path):
    out = tmp_path / "plan.json"
    # At this interval the basis update is compiled with the least effort.
    seldom = ["--steps", "101", "--basis-update-every", "100"]
    command = [sys.executable, "-m", "experiments.plan", "digits", *SMALL, *seldom]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    ended = subprocess.run(
        [*command, "--topology", "v5e:2x2", "--json", str(out)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    planned = json.loads(out.read_text())
    assert (planned["topology"], planned["chips"], planned["fits"]) == ("v5e:2x2", 4, True)
    assert planned["backprop"]["collective_bytes"].keys() == {"all-reduce"}
    assert planned["programs"][-1]["name"] == "basis update"


def test_what_does_not_fit_is_said_with_what_helps():
    small = Cost("step", NOTHING, 1.0, 6.0, 1.0, 70, 10, 5, {})
    refused = TooLarge("init", NOTHING, 1.0, "Ran out of memory")
    where = Topology("v5e:2x2", [], 80, local=False)
    planned = Plan(where, 4, [small], [1.0], refused, small, small._replace(flops=4.0))
    assert planned.too_large == [small, refused, small]
    written = planned.as_json()
    assert (written["fits"], written["mean_flops_ratio"]) == (False, 1.5)
    assert written["init"].keys() == written["evaluation"].keys()
    assert written["init"]["flops"] is None
    config = load_config("imagenet_resnet18_nmnc")
    assert "most likely first: --divide-units" in remedy(small, config)
    said = "init does not fit (Ran out of memory). What helps, most likely first: a smaller --basis"
    assert said in remedy(refused, config)
    roomy = planned._replace(topology=where._replace(memory=85), init=small)
    assert (roomy.fits, roomy.too_large) == (True, [])
