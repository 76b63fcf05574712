"""Subspaces: orthonormal, the principal components of the activity, streamed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA, IncrementalPCA

from nmnc_jax import components, fixed_subspace, isotropic, pca, random_subspace
from nmnc_jax.subspace import lift, project


def activity_of(examples, units, rank, seed=0, noise=0.01):
    """Activity near a manifold of known dimension, with a separated spectrum and a mean."""
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(99).normal(size=(units, rank)))[0]
    strengths = 2.0 ** -np.arange(rank)
    coordinates = random.normal(size=(examples, rank)) * strengths
    rows = coordinates @ directions.T + noise * random.normal(size=(examples, units)) + 3
    return jnp.asarray(rows, jnp.float32)


def largest_angle(left, right):
    """Largest principal angle between two subspaces, in radians."""
    overlap = np.linalg.svd(np.asarray(left, np.float64).T @ np.asarray(right, np.float64))[1]
    return float(np.arccos(np.clip(overlap.min(), -1, 1)))


def assert_orthonormal(basis):
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-5)


@pytest.mark.parametrize(("examples", "units"), [(200, 30), (40, 300)])
def test_first_basis_is_the_principal_components(examples, units):
    activity = activity_of(examples, units, rank=4)
    state = pca(4).init("x", activity)
    expected = PCA(4).fit(np.asarray(activity))
    assert largest_angle(state.basis, expected.components_.T) < 1e-3
    np.testing.assert_allclose(state.scatter, expected.singular_values_**2, rtol=1e-3)
    assert_orthonormal(state.basis)


@pytest.mark.parametrize("units", [30, 300])
def test_stream_agrees_with_incremental_pca(units):
    chunks = [activity_of(40, units, rank=4, seed=seed) for seed in range(8)]
    manifold = pca(4, decay=1.0)
    state = manifold.init("x", chunks[0])
    for chunk in chunks[1:]:
        state = manifold.update(state, chunk)
    reference = IncrementalPCA(4)
    for chunk in chunks:
        reference.partial_fit(np.asarray(chunk))
    assert largest_angle(state.basis, reference.components_.T) < 0.01
    np.testing.assert_allclose(state.mean, reference.mean_, rtol=1e-4)
    np.testing.assert_allclose(state.scatter, reference.singular_values_**2, rtol=1e-3)
    assert float(state.weight) == 320


@pytest.mark.parametrize("examples", [40, 44])
def test_many_rows_are_merged_block_by_block(examples, monkeypatch):
    """Also where the last block is not full; then as a stream of blocks is."""
    monkeypatch.setattr(components, "ROWS", 8)
    # No other test has this shape, for which a program with larger blocks would be compiled.
    activity = activity_of(examples, 307, rank=4, noise=0.001)
    state = pca(4).init("x", activity)
    reference = PCA(4).fit(np.asarray(activity))
    assert largest_angle(state.basis, reference.components_.T) < 0.01
    np.testing.assert_allclose(state.scatter, reference.singular_values_**2, rtol=1e-3)
    assert_orthonormal(state.basis)
    made = str(jax.make_jaxpr(lambda x: pca(4).init("x", x))(activity))
    sides = re.findall(r"f32\[(\d+),\d+\] \S+ = eigh", made)
    assert max(map(int, sides)) == 4 + 8


def test_stream_forgets_what_was():
    manifold = pca(3, decay=0.5)
    state = manifold.init("x", activity_of(64, 50, rank=3))
    turned = activity_of(64, 50, rank=3)[:, ::-1]
    for _ in range(10):
        state = manifold.update(state, turned)
    assert largest_angle(state.basis, pca(3).init("x", turned).basis) < 0.01


def test_rank_may_exceed_the_batch():
    manifold = pca(20, decay=1.0)
    chunks = [activity_of(8, 100, rank=20, seed=seed, noise=1.0) for seed in range(4)]
    state = manifold.init("x", chunks[0])
    assert_orthonormal(state.basis)
    for chunk in chunks[1:]:
        state = manifold.update(state, chunk)
        assert_orthonormal(state.basis)
    # 32 examples less their mean span 31 dimensions; the twenty strongest are found nearly.
    everything = PCA(20).fit(np.concatenate(chunks))
    captured = float((project(state.basis, jnp.asarray(everything.components_)) ** 2).sum())
    assert captured > 0.95 * 20


@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3])
def test_basis_stays_orthonormal_over_a_thousand_updates(strength):
    """Also where most directions are at rounding level of the strongest."""
    manifold = pca(16, decay=0.9)
    state = manifold.init("x", strength * activity_of(32, 200, rank=16, noise=1e-6))

    def update(state, key):
        rows = jax.random.normal(key, (8, 4)) @ jax.random.normal(jax.random.key(1), (4, 200))
        noise = 1e-6 * jax.random.normal(jax.random.fold_in(key, 1), (8, 200))
        return manifold.update(state, strength * (rows + noise)), None

    with jax.debug_key_reuse(False):
        state, _ = jax.lax.scan(update, state, jax.random.split(jax.random.key(0), 1000))
    assert_orthonormal(state.basis)


def test_no_square_of_the_units_is_ever_formed():
    """Memory is O((d + B) n): the largest array that an update makes is [d + B + 1, n]."""
    units, rank, batch = 5000, 7, 9
    manifold = pca(rank)
    state = jax.eval_shape(lambda x: manifold.init("x", x), jnp.zeros((batch, units)))
    made = jax.make_jaxpr(manifold.update)(state, jnp.zeros((batch, units)))
    sizes = [v.aval.size for equation in made.eqns for v in equation.outvars]
    assert max(sizes) <= (rank + batch + 1) * units


@pytest.mark.parametrize("units", [4, 40])
def test_silent_tap_gets_an_orthonormal_basis(units):
    state = pca(3).init("x", jnp.zeros((8, units)))
    assert_orthonormal(state.basis)
    assert_orthonormal(pca(3).update(state, jnp.zeros((8, units))).basis)


def test_random_bases_are_orthonormal_and_differ_between_taps_and_seeds():
    activity = jnp.zeros((2, 40))
    bases = [
        random_subspace(5, seed=seed).init(name, activity).basis
        for seed, name in ((0, "a"), (0, "b"), (1, "a"))
    ]
    for basis in bases:
        assert_orthonormal(basis)
    assert largest_angle(bases[0], bases[1]) > 0.1
    assert largest_angle(bases[0], bases[2]) > 0.1


def test_lift_and_project_are_inverse_on_the_subspace():
    basis = random_subspace(3).init("x", jnp.zeros((2, 7))).basis
    z = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(project(basis, lift(basis, z)), z, atol=1e-5)
    np.testing.assert_array_equal(lift(isotropic().init("x", z).basis, z), z)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: pca(8).init("x", x), "rank is 8; tap 'x' takes 1 to 7"),
        (lambda x: pca("auto").init("x", x), "rank is 'auto'; it takes a whole number, or a dict"),
        (lambda x: pca({"x": 2.0}).init("x", x), "rank is 2.0; it takes a whole number, or a dict"),
        (lambda x: random_subspace(0).init("x", x), "rank is 0; tap 'x' takes 1 to 7"),
        (lambda x: pca({"y": 3}).init("x", x), r"rank has no entry for tap 'x'.*\['y'\]"),
        (lambda x: pca(2, update_every=0), "update_every is 0; it takes a whole number"),
        (lambda x: pca(2, decay=1.5), "decay is 1.5; it takes a number from 0 to 1"),
        (lambda x: pca(2, explained_variance=0.0), "explained_variance is 0.0; it takes a number"),
        (lambda x: pca(2, explained_variance=95), "explained_variance is 95; it takes a number"),
        (lambda x: fixed_subspace({"x": jnp.ones((7, 2))}), r"bases\['x'\] is off orthonormal"),
        (lambda x: fixed_subspace({"x": jnp.ones((2, 7))}), r"bases\['x'\] has shape \(2, 7\)"),
        (
            lambda x: fixed_subspace({"x": jnp.eye(6)}).init("x", x),
            r"bases\['x'\] has shape \(6, 6\); tap 'x' has 7 units",
        ),
        (
            lambda x: fixed_subspace({"y": jnp.eye(7)}).init("x", x),
            r"bases has no entry for tap 'x'; it has \['y'\]",
        ),
    ],
)
def test_bad_subspaces_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(jnp.ones((4, 7)))


def test_a_direction_has_one_sign():
    """Whatever the order of the examples: rounding must not decide it."""
    rows = activity_of(40, 60, 5, seed=3)
    subspace = pca(5)
    first = subspace.init("x", rows)
    again = subspace.init("x", rows[::-1])
    np.testing.assert_allclose(again.basis, first.basis, atol=1e-4)
    flipped = subspace.init("x", -rows)
    np.testing.assert_allclose(flipped.basis, first.basis, atol=1e-4)
    assert (first.basis.max(axis=0) >= -first.basis.min(axis=0)).all()


def test_weak_directions_are_found_beside_strong_ones():
    """Standard deviations over a range of 300: the square of that is near float32's rounding."""
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.normal(size=(2000, 48)))[0].astype(np.float32)
    strengths = np.float32(0.003) ** (np.arange(48, dtype=np.float32) / 47)
    chunks = [
        (random.normal(size=(96, 48)).astype(np.float32) * strengths) @ directions.T
        + np.float32(1e-7) * random.normal(size=(96, 2000)).astype(np.float32)
        for _ in range(3)
    ]
    manifold, reference = pca(48, decay=1.0), IncrementalPCA(48)
    state = manifold.init("x", jnp.asarray(chunks[0]))
    reference.partial_fit(chunks[0].astype(np.float64))
    for chunk in chunks[1:]:
        state = manifold.update(state, jnp.asarray(chunk))
        reference.partial_fit(chunk.astype(np.float64))
    others = reference.components_.T
    outside = others - np.asarray(state.basis) @ (np.asarray(state.basis).T @ others)
    assert np.linalg.norm(outside, 2) < 0.01
    np.testing.assert_allclose(state.scatter, reference.singular_values_**2, rtol=1e-3)


@pytest.mark.parametrize("units", [30, 300])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_the_fewest_components_that_explain_enough_are_kept(units, share):
    chunks = [activity_of(40, units, rank=12, seed=seed) for seed in range(3)]
    manifold = pca(10, explained_variance=share, decay=1.0)
    state = manifold.init("x", chunks[0])
    for chunk in chunks[1:]:
        state = manifold.update(state, chunk)
    everything = PCA().fit(np.concatenate(chunks))
    explained = np.cumsum(everything.explained_variance_ratio_)
    fewest = min(1 + int(np.argmax(explained >= share)), 10)
    np.testing.assert_array_equal(state.kept, np.arange(10) < fewest)
    assert_orthonormal(state.components)
    np.testing.assert_array_equal(state.basis[:, :fewest], state.components[:, :fewest])
    assert not state.basis[:, fewest:].any()


def test_the_number_of_components_follows_the_activity():
    manifold = pca(8, explained_variance=0.9, decay=0.3)
    narrow = activity_of(64, 50, rank=2, noise=0.0)
    state = manifold.init("x", narrow)
    kept = [int(state.kept.sum())]
    wide = [jax.random.normal(jax.random.key(seed), (64, 50)) for seed in range(5)]
    for rows in ([*wide], [narrow] * 8):
        for some in rows:
            state = manifold.update(state, some)
        kept.append(int(state.kept.sum()))
    assert kept == [2, 8, 2]


def test_a_silent_tap_keeps_all_components():
    state = pca(3, explained_variance=0.9).init("x", jnp.zeros((8, 5)))
    np.testing.assert_array_equal(state.kept, jnp.ones(3))
