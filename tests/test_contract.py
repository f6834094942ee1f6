"""The array contract: what is refused, with which words, and what the package offers."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import coupling
from coupling import errors
from coupling.contract import (
    ClosureSpec,
    Response,
    Status,
    check_arguments,
    check_response,
    finite_rows,
    mandel_components,
    mark_unusable,
    tensor_components,
    usable,
)
from coupling.errors import ContractError

sizes = st.integers(0, 5)


def a_spec(k: int, s: int) -> ClosureSpec:
    names = tuple(f"g{i}" for i in range(k))
    return ClosureSpec(names, names, (0.0,) * k, state_size=s)


def a_response(n: int = 3, k: int = 2, s: int = 1) -> Response:
    return Response(
        flux=np.ones((n, k)),
        tangent=np.ones((n, k, k)),
        status=np.zeros(n, np.int8),
        state=np.ones((n, s)) if s else None,
        uncertainty=np.ones(n),
        energy=np.ones(n),
    )


def test_what_the_package_offers():
    assert set(coupling.__all__) == {
        "AcceleratedClosure",
        "BalancedClosure",
        "CaseError",
        "Closure",
        "ClosureError",
        "ClosureSpec",
        "CollectiveSurrogate",
        "ContractError",
        "Gate",
        "Ledger",
        "MeshError",
        "MissingPackageError",
        "ModelError",
        "RangeGate",
        "RemoteRankError",
        "RemoteSurrogate",
        "Response",
        "ServerAddressError",
        "ServerError",
        "ServerRefusedError",
        "ServerUnavailableError",
        "Status",
        "StepError",
        "StrainFrame",
        "StretchFrame",
        "StretchOfStrain",
        "Tls",
        "ToleranceGate",
        "TritonSurrogate",
        "TwoscaleError",
        "mandel_components",
        "tensor_components",
        "together",
    }
    assert all(hasattr(coupling, name) for name in coupling.__all__)


def test_every_error_is_a_twoscale_error_and_in_the_drawn_tree():
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    assert all(issubclass(c, errors.TwoscaleError) and c.__name__ in (errors.__doc__ or "") for c in classes)


def test_component_names():
    assert tensor_components("F", 2) == ("F11", "F12", "F21", "F22")
    assert mandel_components("U", 2) == ("U11", "U22", "√2·U12")
    assert mandel_components("ε", 3) == ("ε11", "ε22", "ε33", "√2·ε23", "√2·ε13", "√2·ε12")


def test_usable_and_messages():
    assert [s.usable for s in Status] == [True, True, False, False, False, False]
    assert usable(np.array([*Status, -1, 99], np.int8)).tolist() == [s.usable for s in Status] + [False, False]
    assert len({s.message for s in Status}) == len(Status)


def test_spec_refuses_what_does_not_fit():
    with pytest.raises(ContractError, match="reference has 1 values for 2 gradient components"):
        ClosureSpec(("a", "b"), ("q",), (0.0,))
    with pytest.raises(ContractError, match="symmetric tangent needs as many flux"):
        ClosureSpec(("a", "b"), ("q",), (0.0, 0.0), symmetric=True)


@given(n=sizes, k=st.integers(1, 4), s=sizes, with_hint=st.booleans())
def test_right_arrays_are_accepted(n, k, s, with_hint):
    state = np.zeros((n, s)) if s else None
    assert check_arguments(a_spec(k, s), np.zeros((n, k)), state, state if with_hint else None) == n


@given(
    shape=st.lists(sizes, max_size=3),
    k=st.integers(1, 4),
    dtype=st.sampled_from([np.float64, np.float32, np.int64, np.complex128]),
    fortran=st.booleans(),
)
def test_gradients_are_accepted_exactly_where_the_contract_says(shape, k, dtype, fortran):
    gradient = np.zeros(shape, dtype, order="F" if fortran else "C")
    right = len(shape) == 2 and shape[1] == k and dtype == np.float64 and gradient.flags.c_contiguous
    if right:
        assert check_arguments(a_spec(k, 0), gradient, None) == shape[0]
    else:
        with pytest.raises(ContractError, match="gradient must"):
            check_arguments(a_spec(k, 0), gradient, None)


@pytest.mark.parametrize(
    ("state", "hint", "message"),
    [
        (None, None, r"state is None, but the closure keeps 2 numbers per point: pass closure.initial_state\(3\)"),
        (np.zeros((2, 2)), None, r"state must have shape \(3, 2\) \(one row per point\), got \(2, 2\)"),
        (np.zeros((3, 2)), np.zeros((3, 1)), r"hint must have shape \(3, 2\)"),
        (np.zeros((3, 2), np.float32), None, "state must be float64, got float32"),
        ([[0.0, 0.0]] * 3, None, r"state must be a NumPy array of shape \(3, 2\), got list"),
    ],
)
def test_wrong_states_and_hints(state, hint, message):
    with pytest.raises(ContractError, match=message):
        check_arguments(a_spec(2, 2), np.zeros((3, 2)), state, hint)


def test_a_state_where_none_is_kept():
    with pytest.raises(ContractError, match=r"state must have shape \(3, 0\)"):
        check_arguments(a_spec(2, 0), np.zeros((3, 2)), np.zeros((3, 1)))


def test_a_right_response_is_accepted():
    check_response(a_spec(2, 1), a_response(), 3)
    check_response(a_spec(2, 0), a_response(0, s=0), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flux": np.ones((3, 1))}, r"flux must have shape \(3, 2\)"),
        ({"tangent": np.ones((3, 2))}, r"tangent must have shape \(3, 2, 2\)"),
        ({"status": np.zeros(3)}, "status must be int8, got float64"),
        ({"state": None}, "state must be an array for 1 numbers per point, got NoneType"),
        ({"uncertainty": np.ones((3, 1))}, r"uncertainty must have shape \(3\)"),
        ({"energy": np.ones(2)}, r"energy must have shape \(3\)"),
    ],
)
def test_wrong_responses(change, message):
    with pytest.raises(ContractError, match=message):
        check_response(a_spec(2, 1), Response(**{**vars(a_response()), **change}), 3)


@pytest.mark.parametrize("name", ["flux", "tangent", "state", "uncertainty", "energy"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_finite_rows_sees_every_array(name, value):
    response = a_response()
    getattr(response, name)[1] = value
    assert finite_rows(response).tolist() == [True, False, True]


def test_mark_unusable():
    marked = mark_unusable(a_response(), np.array([True, False, False]), Status.FAILED)
    assert marked.status.tolist() == [Status.FAILED, 0, 0]
    for rows in (marked.flux, marked.tangent, marked.uncertainty, marked.energy):
        assert rows is not None and np.isnan(rows[0]).all() and (rows[1:] == 1).all()
    assert marked.state is not None and (marked.state == 1).all()
