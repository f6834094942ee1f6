"""Polar decomposition and stretch frame against closed forms and central differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coupling.closed_forms import (
    ClosedFormSurrogate,
    Conduction,
    LinearElastic,
    NeoHookean,
    StandardLinearSolid,
    StretchNeoHookean,
)
from coupling.contract import ClosureSpec, Response, Status, check_arguments, mandel_components
from coupling.errors import ContractError
from coupling.polar import admissible, determinant, mandel_basis, positive_definite
from coupling.stretch import StretchFrame, _transform, _transform_plane, amplification, polar, transform

MU, LMBDA = 1.3, 2.1
dims = st.sampled_from([2, 3])
seeds = st.integers(0, 2**32 - 1)


def rotations(rng, n, d):
    Q = np.linalg.qr(rng.normal(size=(n, d, d))).Q
    Q[:, :, 0] *= np.sign(np.linalg.det(Q))[:, None]
    return Q


def stretches(rng, n, d, low=0.4, high=2.5):
    Q, values = rotations(rng, n, d), rng.uniform(low, high, (n, d))
    return (Q * values[:, None]) @ Q.transpose(0, 2, 1)


def gradients(rng, n, d):
    """F = R U with any rotation, and principal stretches between 0.4 and 2.5."""
    return (rotations(rng, n, d) @ stretches(rng, n, d)).reshape(n, d * d)


class Polynomial:
    """U → T without potential: T = (u − 1) + (u·u) K u, for derivatives with a tangent that is not symmetric."""

    def __init__(self, d):
        names = mandel_components("U", d)
        reference = (1.0,) * d + (0.0,) * (len(names) - d)
        self.spec = ClosureSpec(names, mandel_components("T", d), reference)
        self.K = np.random.default_rng(d).normal(size=(len(names),) * 2)

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        n = check_arguments(self.spec, gradient, state, hint)
        uu, Ku = (gradient**2).sum(axis=1), gradient @ self.K.T
        flux = gradient - np.array(self.spec.reference) + uu[:, None] * Ku
        tangent = np.eye(self.spec.k) + uu[:, None, None] * self.K + 2 * Ku[:, :, None] * gradient[:, None, :]
        return Response(flux, tangent, np.zeros(n, np.int8))


def differences(closure, F, h=1e-3):
    """Central differences of the flux, extrapolated to an error of O(h⁴)."""
    columns = []
    for e in np.eye(F.shape[1]):
        d1, d2 = (
            (closure.evaluate(F + s * e, None, 1.0).flux - closure.evaluate(F - s * e, None, 1.0).flux) / (2 * s)
            for s in (h, h / 2)
        )
        columns.append((4 * d2 - d1) / 3)
    return np.stack(columns, axis=2)


@given(dim=dims, seed=seeds)
def test_polar_decomposition(dim, seed):
    F = gradients(np.random.default_rng(seed), 20, dim)
    R, u = polar(F)
    U = (u @ mandel_basis(dim).reshape(-1, dim * dim)).reshape(-1, dim, dim)
    np.testing.assert_allclose((R @ U).reshape(F.shape), F, atol=1e-13)
    np.testing.assert_allclose(R.transpose(0, 2, 1) @ R, np.tile(np.eye(dim), (20, 1, 1)), atol=1e-13)
    np.testing.assert_allclose(np.linalg.det(R), 1.0, atol=1e-13)
    assert (np.linalg.eigvalsh(U) > 0).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_polar_of_nearly_singular_gradients(dim):
    rng = np.random.default_rng(1)
    U = stretches(rng, 50, dim, 1e-9, 1e3)
    R = rotations(rng, 50, dim)
    found, _ = polar((R @ U).reshape(50, -1))
    np.testing.assert_allclose(found.transpose(0, 2, 1) @ found, np.tile(np.eye(dim), (50, 1, 1)), atol=1e-12)


@given(F=arrays(np.float64, (4, 4), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_admissible_never_raises_and_never_lets_through_what_is_not_finite(F):
    good = admissible(F)
    assert np.isfinite(F[good]).all() and (determinant(F[good]) > 0).all()


@given(dim=dims, seed=seeds)
def test_positive_definite(dim, seed):
    rng = np.random.default_rng(seed)
    Q, values = rotations(rng, 30, dim), rng.uniform(-0.5, 1.5, (30, dim))
    U = (Q * values[:, None]) @ Q.transpose(0, 2, 1)
    u = U.reshape(30, -1) @ mandel_basis(dim).reshape(-1, dim * dim).T
    np.testing.assert_array_equal(positive_definite(u), (values > 0).all(axis=1))
    u[3, 0], u[4, -1] = np.nan, np.inf
    assert not positive_definite(u)[3:5].any()
    status = StretchNeoHookean(MU, LMBDA, dim).evaluate(u, None, 1.0).status
    np.testing.assert_array_equal(status == Status.OK, positive_definite(u))


@given(dim=dims, seed=seeds)
def test_frame_of_the_stretch_law_is_the_law(dim, seed):
    F = gradients(np.random.default_rng(seed), 8, dim)
    law = NeoHookean(MU, LMBDA, dim).evaluate(F, None, 1.0)
    framed = StretchFrame(StretchNeoHookean(MU, LMBDA, dim)).evaluate(F, None, 1.0)
    assert law.energy is not None and framed.energy is not None
    scale = np.abs(law.tangent).max()
    np.testing.assert_allclose(framed.flux, law.flux, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(framed.tangent, law.tangent, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(framed.energy, law.energy, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("make", [lambda d: StretchFrame(Polynomial(d)), lambda d: NeoHookean(MU, LMBDA, d)])
def test_tangent_against_central_differences(dim, make):
    closure = make(dim)
    F = gradients(np.random.default_rng(dim), 30, dim)
    tangent = closure.evaluate(F, None, 1.0).tangent
    np.testing.assert_allclose(tangent, differences(closure, F), rtol=0, atol=2e-9 * np.abs(tangent).max())


@given(dim=dims, seed=seeds)
def test_objectivity_and_balance_of_angular_momentum(dim, seed):
    rng = np.random.default_rng(seed)
    closure = StretchFrame(Polynomial(dim))
    F, Q = gradients(rng, 5, dim).reshape(5, dim, dim), rotations(rng, 5, dim)
    P = closure.evaluate(F.reshape(5, -1), None, 1.0).flux.reshape(F.shape)
    QP = closure.evaluate((Q @ F).reshape(5, -1), None, 1.0).flux.reshape(F.shape)
    np.testing.assert_allclose(QP, Q @ P, atol=1e-11 * np.abs(P).max())
    PFt = P @ F.transpose(0, 2, 1)
    np.testing.assert_allclose(PFt, PFt.transpose(0, 2, 1), atol=1e-11 * np.abs(PFt).max())


def test_simple_shear_in_closed_form():
    """For F = (1 γ; 0 1) the rotation angle is −atan(γ/2) (e.g. Ogden, Non-Linear Elastic Deformations, 1984, §2.2)."""
    gamma = np.array([0.0, 0.3, 2.0, -7.0])
    F = np.column_stack((np.ones(4), gamma, np.zeros(4), np.ones(4)))
    R, _ = polar(F)
    np.testing.assert_allclose(np.arctan2(R[:, 1, 0], R[:, 0, 0]), -np.arctan(gamma / 2), atol=1e-15)


@given(dim=dims, seed=seeds)
def test_uncertainty_bounds_the_error_of_the_stress(dim, seed):
    rng = np.random.default_rng(seed)
    R, U = rotations(rng, 10, dim), stretches(rng, 10, dim, 0.05, 20.0)
    u = U.reshape(10, -1) @ mandel_basis(dim).reshape(-1, dim * dim).T
    error = rng.normal(size=u.shape)
    passed_on, _ = transform(R, u, error, np.zeros((*u.shape, u.shape[1])))
    bound = amplification(u) * np.linalg.norm(error, axis=1)
    assert (np.linalg.norm(passed_on, axis=1) <= bound * (1 + 1e-12)).all()


def test_uncertainty_bound_is_attained_by_shear_in_principal_axes():
    u, shear = np.array([[3.0, 0.5, 0.0]]), np.array([[0.0, 0.0, 1.0]])
    P, _ = transform(np.eye(2)[None], u, shear, np.zeros((1, 3, 3)))
    assert np.linalg.norm(P) == pytest.approx(amplification(u)[0], rel=1e-14)
    assert amplification(u)[0] == pytest.approx(np.sqrt(1 + (2.5 / 3.5) ** 2), rel=1e-14)


def test_uncertainty_is_passed_on_with_the_bound():
    class Unsure(Polynomial):
        def evaluate(self, *args, **kwargs):
            response = super().evaluate(*args, **kwargs)
            return replace(response, uncertainty=np.arange(1.0, len(response.flux) + 1))

    F = gradients(np.random.default_rng(0), 6, 2)
    stated = StretchFrame(Unsure(2)).evaluate(F, None, 1.0).uncertainty
    np.testing.assert_allclose(stated, np.arange(1.0, 7.0) * amplification(polar(F)[1]), rtol=1e-14)


def test_uncertainty_of_a_surrogate_bounds_its_error():
    surrogate = ClosedFormSurrogate(StretchNeoHookean(MU, LMBDA), 1e-2, [0.0] * 2 + [-9.0], [9.0] * 3)
    F = gradients(np.random.default_rng(0), 40, 2)
    response = StretchFrame(surrogate).evaluate(F, None, 1.0)
    error = np.linalg.norm(response.flux - NeoHookean(MU, LMBDA).evaluate(F, None, 1.0).flux, axis=1)
    assert response.uncertainty is not None
    assert (error <= response.uncertainty * (1 + 1e-12)).all()
    assert (response.uncertainty <= np.sqrt(2) * error * (1 + 1e-9)).all()


@pytest.mark.parametrize("bad", [[1, 0, 0, -1], [1, 1, 1, 1], [np.nan, 0, 0, 1], [1, np.inf, 0, 1], [0, 0, 0, 0]])
def test_inadmissible_points_do_not_disturb_the_others(bad):
    closure = StretchFrame(StretchNeoHookean(MU, LMBDA))
    F = gradients(np.random.default_rng(0), 3, 2)
    expected = closure.evaluate(F, None, 1.0)
    F[1] = bad
    response = closure.evaluate(F, None, 1.0)
    assert response.status.tolist() == [Status.OK, Status.INADMISSIBLE, Status.OK]
    assert np.isnan(response.flux[1]).all() and np.isnan(response.tangent[1]).all()
    np.testing.assert_array_equal(response.flux[[0, 2]], expected.flux[[0, 2]])


@given(seed=seeds)
def test_the_plane_form_is_the_general_one(seed):
    rng = np.random.default_rng(seed)
    R, u = polar(gradients(rng, 6, 2))
    T, C = rng.normal(size=(6, 3)), rng.normal(size=(6, 3, 3))
    for plane, general in zip(_transform_plane(R, u, T, C), _transform(R, u, T, C), strict=True):
        np.testing.assert_allclose(plane, general, rtol=0, atol=1e-13 * np.abs(C).max() * np.abs(general).max())


class Counting(StretchNeoHookean):
    """A law with a state that counts its evaluations."""

    def __init__(self):
        super().__init__(MU, LMBDA)
        self.spec = replace(self.spec, state_size=1)

    def initial_state(self, n):
        return np.zeros((n, 1))

    def evaluate(self, gradient, state, dt, hint=None):
        check_arguments(self.spec, gradient, state, hint)
        law = StretchNeoHookean(MU, LMBDA).evaluate(gradient, None, dt)
        return replace(law, state=state + 1.0 if hint is None else hint + 10.0)


def test_state_and_hint_pass_through_and_stay_where_inadmissible():
    closure = StretchFrame(Counting())
    F = np.tile(np.eye(2).ravel(), (2, 1))
    F[1, 0] = -1.0
    state = closure.initial_state(2)
    np.testing.assert_array_equal(closure.evaluate(F, state, 1.0).state, [[1.0], [0.0]])
    np.testing.assert_array_equal(closure.evaluate(F, state, 1.0, hint=np.ones((2, 1))).state, [[11.0], [0.0]])
    assert closure.spec.state_size == 1 and closure.spec.symmetric


@pytest.mark.parametrize("dim", [2, 3])
def test_no_points(dim):
    response = StretchFrame(StretchNeoHookean(MU, LMBDA, dim)).evaluate(np.empty((0, dim * dim)), None, 1.0)
    assert response.flux.shape == (0, dim * dim) and response.tangent.shape == (0, dim * dim, dim * dim)


def strain_names(d):
    law = StretchNeoHookean(MU, LMBDA, d)
    law.spec = replace(law.spec, gradient=("U11", "U12", "U22"))
    return law


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (Conduction(1.0), "3 .2D. or 6 .3D. Mandel components"),
        (NeoHookean(MU, LMBDA), "3 .2D. or 6 .3D. Mandel components"),
        (LinearElastic(MU, LMBDA), "needs an inner closure of stretches"),
        (StandardLinearSolid(1, 1, branch_mu=1, branch_lmbda=1, relaxation_time=1, dim=3), "closure of stretches"),
        (strain_names(2), "inner gradient in Mandel form"),
    ],
)
def test_what_is_not_a_stretch_law_is_refused(inner, message):
    with pytest.raises(ContractError, match=message):
        StretchFrame(inner)


def test_polar_refuses_other_sizes():
    with pytest.raises(ContractError, match="4 or 9 components per point, row by row, got 3"):
        polar(np.ones((2, 3)))
