"""The conformance suite: what keeps the contract passes, and every check catches what breaks it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from coupling.accelerated import AcceleratedClosure
from coupling.closed_forms import (
    ClosedFormSurrogate,
    Conduction,
    FailingClosure,
    LinearElastic,
    NeoHookean,
    StandardLinearSolid,
    StretchNeoHookean,
    ThermoElastic,
    lame,
)
from coupling.conformance import array_checks, assert_conforms, check, law_checks
from coupling.conformance.__main__ import main
from coupling.contract import (
    Closure,
    ClosureSpec,
    Response,
    Status,
    check_arguments,
    mandel_components,
    tensor_components,
)
from coupling.errors import ContractError
from coupling.gate import RangeGate
from coupling.stretch import StretchFrame

MU, LMBDA = 1.3, 2.1


def box(closure, half=0.04):
    reference = np.array(closure.spec.reference)
    return ClosedFormSurrogate(closure, 1e-3, reference - half, reference + half)


def solid(dim):
    return StandardLinearSolid(1.0, 2.0, branch_mu=0.5, branch_lmbda=0.3, relaxation_time=0.7, dim=dim)


LAWS = {
    f"{make.__name__} {dim}D": make(MU, LMBDA, dim)
    for make in (LinearElastic, NeoHookean, StretchNeoHookean)
    for dim in (2, 3)
}
CONFORMING: dict[str, Closure] = {
    **LAWS,
    "steel": LinearElastic(*lame(210e9, 0.3)),
    "Conduction": Conduction([[2.0, 0.3], [0.3, 1.0]]),
    "ThermoElastic 2D": ThermoElastic(MU, LMBDA, 0.1, 2),
    "ThermoElastic 3D": ThermoElastic(MU, LMBDA, 0.1, 3),
    "StandardLinearSolid 2D": solid(2),
    "StandardLinearSolid 3D": solid(3),
    "ClosedFormSurrogate": box(NeoHookean(MU, LMBDA), 0.2),
    "FailingClosure": FailingClosure(NeoHookean(MU, LMBDA), lambda F: F[:, 0] > 1.03),
    "StretchFrame 2D": StretchFrame(StretchNeoHookean(MU, LMBDA, 2)),
    "StretchFrame 3D": StretchFrame(StretchNeoHookean(MU, LMBDA, 3)),
    "AcceleratedClosure": AcceleratedClosure(NeoHookean(MU, LMBDA), NeoHookean(MU, LMBDA), gate=RangeGate()),
    "AcceleratedClosure with history": AcceleratedClosure(solid(2), box(solid(2), 1.0), gate=RangeGate()),
    "AcceleratedClosure off": AcceleratedClosure(solid(3), box(solid(3)), gate=RangeGate(), mode="off"),
    "AcceleratedClosure in a StretchFrame": StretchFrame(
        AcceleratedClosure(StretchNeoHookean(MU, LMBDA), box(StretchNeoHookean(MU, LMBDA), 1.0), gate=RangeGate())
    ),
}


@pytest.mark.parametrize("name", CONFORMING)
def test_shipped_closures_conform(name):
    assert_conforms(CONFORMING[name])


def test_a_closure_that_mixes_fine_scale_and_surrogate_conforms():
    """With an exact surrogate the gate leaves no jump, so that central differences across its border are right."""
    law = NeoHookean(MU, LMBDA)
    exact = ClosedFormSurrogate(law, 0.0, np.array(law.spec.reference) - 0.03, np.array(law.spec.reference) + 0.03)
    accelerated = AcceleratedClosure(law, exact, gate=RangeGate())
    assert_conforms(accelerated)
    assert accelerated.ledger.counts["fallback/points"] > 0 and accelerated.ledger.counts["surrogate/points"] > 0


class Law:
    """A conforming path-independent law (convex, 3 components, no state) to be broken in one place at a time."""

    names = ("a", "b", "c")
    state_size, history, symmetric = 0, False, True
    K = np.array([[2.0, 0.3, 0.1], [0.3, 1.0, 0.2], [0.1, 0.2, 3.0]])

    @property
    def spec(self):
        return ClosureSpec(
            self.names,
            tuple("q" + n for n in self.names),
            (0.0,) * 3,
            state_size=self.state_size,
            history=self.history,
            symmetric=self.symmetric,
        )

    def initial_state(self, n):
        return np.zeros((n, self.state_size)) if self.state_size else None

    def evaluate(self, gradient, state, dt, hint=None):
        n = check_arguments(self.spec, gradient, state, hint)
        bad = ~np.isfinite(gradient).all(axis=1)
        g = np.where(bad[:, None], 0.0, gradient)
        flux = g @ self.K.T + g**3
        tangent = self.K + 3 * g[:, :, None] ** 2 * np.eye(3)
        status = np.where(bad, Status.INADMISSIBLE, Status.OK).astype(np.int8)
        energy = 0.5 * np.einsum("ni,ij,nj->n", g, self.K, g) + 0.25 * (g**4).sum(axis=1)
        return Response(flux, tangent, status, None if state is None else state + 1.0, np.zeros(n), energy)


class WithState(Law):
    state_size = 2


BROKEN: dict[str, tuple[str, type]] = {}


def breaks(name):
    def enter(cls):
        assert cls.__name__ not in BROKEN
        BROKEN[cls.__name__] = (name, cls)
        return cls

    return enter


@breaks("specification")
class InitialStateOfWrongSize(WithState):
    def initial_state(self, n):
        return np.zeros((n, 3))


@breaks("specification")
class HistoryWithoutState(Law):
    history = True


@breaks("specification")
class RepeatedNames(Law):
    names = ("a", "b", "b")


@breaks("usable samples")
class NeverConverges(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        return replace(response, status=np.full_like(response.status, Status.NOT_CONVERGED))


@breaks("arrays")
class SinglePrecision(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        return replace(response, flux=response.flux.astype(np.float32))


@breaks("arrays")
class TransposedMemory(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        return replace(response, tangent=response.tangent.transpose(0, 2, 1))


@breaks("arrays")
class UnknownStatus(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        response.status[0] = 77
        return response


@breaks("arrays")
class ForgetsState(WithState):
    def evaluate(self, *args, **kwargs):
        return replace(super().evaluate(*args, **kwargs), state=None)


@breaks("finite")
class QuietNaN(Law):
    def evaluate(self, gradient, *args, **kwargs):
        response = super().evaluate(gradient, *args, **kwargs)
        response.tangent[gradient[:, 0] > 0] = np.nan
        return response


@breaks("fresh memory")
class ReusedBuffer(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        if getattr(self, "buffer", np.empty(0)).shape != response.flux.shape:
            self.buffer = np.empty_like(response.flux)
        self.buffer[:] = response.flux
        return replace(response, flux=self.buffer)


@breaks("fresh memory")
class ReadOnlyTangent(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        response.tangent.flags.writeable = False
        return response


@breaks("fresh memory")
class StateInPlace(WithState):
    def evaluate(self, gradient, state, dt, hint=None):
        response = super().evaluate(gradient, state, dt, hint)
        state += 1.0
        return replace(response, state=state[:])


@breaks("inputs unmodified")
class ClipsItsGradient(Law):
    def evaluate(self, gradient, state, dt, hint=None):
        check_arguments(self.spec, gradient, state, hint)
        np.clip(gradient, -0.01, 0.01, out=gradient)
        return super().evaluate(gradient, state, dt, hint)


@breaks("empty batch")
class NeedsPoints(Law):
    def evaluate(self, gradient, *args, **kwargs):
        if isinstance(gradient, np.ndarray) and gradient.size:
            gradient.max()
        response = super().evaluate(gradient, *args, **kwargs)
        response.flux.max(axis=0)
        return response


@breaks("point by point")
class ScaledByTheBatch(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        response.flux[:] *= 1.0 + 1e-6 * len(response.flux)
        return response


@breaks("order")
class FirstPointIsSpecial(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        response.tangent[:1] *= 1.001
        return response


@breaks("repeatable")
class RemembersItsCalls(Law):
    calls = 0

    def evaluate(self, *args, **kwargs):
        self.calls += 1
        response = super().evaluate(*args, **kwargs)
        return replace(response, flux=response.flux * (1.0 + 1e-4 * self.calls))


@breaks("repeatable")
class Noise(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        return replace(response, flux=response.flux + np.random.default_rng().normal(size=response.flux.shape))


@breaks("arguments")
class TakesAnything(Law):
    def evaluate(self, gradient, state, dt, hint=None):
        return super().evaluate(np.ascontiguousarray(gradient, float).reshape(-1, 3), state, dt, hint)


@breaks("arguments")
class RaisesItsOwnError(Law):
    def evaluate(self, gradient, state, dt, hint=None):
        try:
            return super().evaluate(gradient, state, dt, hint)
        except ContractError as error:
            raise RuntimeError("bad input") from error


@breaks("non-finite gradient")
class SwallowsNaN(Law):
    def evaluate(self, gradient, state, dt, hint=None):
        check_arguments(self.spec, gradient, state, hint)
        return super().evaluate(np.nan_to_num(gradient, posinf=0.0), state, dt, hint)


@breaks("non-finite gradient")
class RaisesOnNaN(Law):
    def evaluate(self, gradient, state, dt, hint=None):
        check_arguments(self.spec, gradient, state, hint)
        np.asarray_chkfinite(gradient)
        return super().evaluate(gradient, state, dt, hint)


@breaks("non-finite gradient")
class OneNaNSpoilsAll(Law):
    def evaluate(self, gradient, state, dt, hint=None):
        response = super().evaluate(gradient, state, dt, hint)
        if not np.isfinite(gradient).all():
            response.status[:] = Status.INADMISSIBLE
        return response


@breaks("reference state")
class UndefinedAtTheReference(Law):
    def evaluate(self, gradient, *args, **kwargs):
        response = super().evaluate(gradient, *args, **kwargs)
        response.status[(gradient == 0).all(axis=1)] = Status.FAILED
        return response


@breaks("tangent")
class LinearisedTangent(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        response.tangent[:] = self.K
        return response


@breaks("tangent")
class ForgetsMandelFactors:
    """Shear of the tangent without the factors √2."""

    law = StretchNeoHookean(MU, LMBDA)
    spec, initial_state = law.spec, law.initial_state

    def evaluate(self, *args, **kwargs):
        response = self.law.evaluate(*args, **kwargs)
        response.tangent[:, 2, :2] /= np.sqrt(2.0)
        response.tangent[:, :2, 2] /= np.sqrt(2.0)
        return response


@breaks("energy")
class EnergyOfSomethingElse(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        return replace(response, energy=2.0 * response.energy)


@breaks("symmetry")
class NotSymmetric(Law):
    K = np.array([[2.0, 0.3, 0.1], [0.31, 1.0, 0.2], [0.1, 0.2, 3.0]])


@breaks("state without history")
class UndeclaredHistory(WithState):
    def evaluate(self, gradient, state, dt, hint=None):
        response = super().evaluate(gradient, state, dt, hint)
        return replace(response, flux=response.flux + 1e-3 * state[:, :1])


@breaks("dt without history")
class UndeclaredRate(Law):
    def evaluate(self, gradient, state, dt, hint=None):
        response = super().evaluate(gradient, state, dt, hint)
        return replace(response, flux=response.flux * (1.0 + dt))


@breaks("hint")
class BelievesItsHint(WithState):
    def evaluate(self, gradient, state, dt, hint=None):
        response = super().evaluate(gradient, state, dt, hint)
        return response if hint is None else replace(response, flux=response.flux + 1e-3 * hint[:, :1])


@breaks("uncertainty")
class NegativeUncertainty(Law):
    def evaluate(self, *args, **kwargs):
        response = super().evaluate(*args, **kwargs)
        return replace(response, uncertainty=response.uncertainty - 1.0)


@breaks("objectivity")
class SmallStrainInDisguise:
    """P = C : sym(F − 1)."""

    law = LinearElastic(MU, LMBDA)
    spec = replace(NeoHookean(MU, LMBDA).spec)
    B = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, np.sqrt(0.5), np.sqrt(0.5), 0]])

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        check_arguments(self.spec, gradient, state, hint)
        with np.errstate(invalid="ignore"):
            small = self.law.evaluate((gradient - np.array(self.spec.reference)) @ self.B.T, None, dt)
        return replace(small, flux=small.flux @ self.B, tangent=self.B.T @ small.tangent @ self.B)


def failed(closure):
    return {result.name for result in check(closure) if not result.passed}


@pytest.mark.parametrize("closure", [Law(), WithState()])
def test_the_laws_that_are_broken_below_conform_unbroken(closure):
    assert_conforms(closure)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_closure_is_caught_by_the_check_of_that_name(name):
    check_name, make = BROKEN[name]
    assert check_name in failed(make())


def test_every_check_catches_something():
    assert {check_name for check_name, _ in BROKEN.values()} == set(array_checks.CHECKS) | set(law_checks.CHECKS)


@pytest.mark.parametrize(
    ("cls", "only"),
    [
        (LinearisedTangent, {"tangent"}),
        (EnergyOfSomethingElse, {"energy"}),
        (NegativeUncertainty, {"uncertainty"}),
        (BelievesItsHint, {"hint"}),
        (SmallStrainInDisguise, {"objectivity"}),
        (UndefinedAtTheReference, {"reference state"}),
        (ReadOnlyTangent, {"fresh memory"}),
    ],
)
def test_one_fault_is_reported_as_one(cls, only):
    assert failed(cls()) == only


def test_assert_conforms_says_what_and_how_much():
    with pytest.raises(
        AssertionError, match=r"(?s)LinearisedTangent breaks the closure contract:.*tangent: .*\(\d\.\de"
    ):
        assert_conforms(LinearisedTangent())


def test_the_range_of_a_surrogate_is_respected():
    law = NeoHookean(MU, LMBDA)
    narrow = box(law, 1e-3)
    assert "usable samples" in failed(narrow)
    assert_conforms(narrow, amplitude=5e-4)


def test_gradients_must_fit():
    with pytest.raises(ContractError, match=r"gradients must have shape \(n, 3\) with n of 2 or more, got \(1, 3\)"):
        check(Law(), gradients=np.zeros((1, 3)))


def test_component_names_decide_about_objectivity():
    assert tensor_components("F", 2) == NeoHookean(MU, LMBDA).spec.gradient
    assert mandel_components("U", 2) == StretchNeoHookean(MU, LMBDA).spec.gradient
    results = {r.name: r for r in check(StretchNeoHookean(MU, LMBDA))}
    assert results["objectivity"].explanation.startswith("does not apply")


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("plugin:make", 0),
        ("plugin:closure", 0),
        ("plugin:Wrong", 1),
        ("plugin:missing", 2),
        ("plugin:number", 2),
        ("plugin:raises", 2),
        ("plugin", 2),
        ("no_such_module:make", 2),
    ],
)
def test_command_line(address, code, tmp_path, monkeypatch, capsys):
    (tmp_path / "plugin.py").write_text(
        "from coupling.closed_forms import NeoHookean, FailingClosure\n"
        "number = 3\n"
        "closure = NeoHookean(1.0, 1.0)\n"
        "def make(): return NeoHookean(1.0, 1.0)\n"
        "def raises(): raise OSError('no weights')\n"
        "class Wrong(NeoHookean):\n"
        "    def __init__(self): super().__init__(1.0, 1.0)\n"
        "    def evaluate(self, *a, **k):\n"
        "        r = super().evaluate(*a, **k); r.tangent[:] *= 2; return r\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plugin", raising=False)
    assert main([address]) == code
    out, err = capsys.readouterr()
    assert ("tangent" in out) == (code < 2) and bool(err) == (code == 2)
    assert ("✗" in out) == (code == 1)


def test_command_line_options(capsys):
    address = "tests.test_conformance:LinearisedTangent"
    assert main([address]) == 1
    assert main([address, "--tangent-tolerance", "1", "--samples", "3", "--amplitude", "1e-3"]) == 0
    assert "3 points" in capsys.readouterr().out


def test_what_does_not_apply_is_marked_so_and_one_broken_call_is_told_once(capsys):
    assert main(["tests.test_conformance:Law"]) == 0
    table = capsys.readouterr().out
    marks = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in table.splitlines() if "│" in line}
    assert (marks["objectivity"], marks["tangent"]) == ("–", "✓")
    assert main(["tests.test_conformance:Refusing"]) == 1
    table = capsys.readouterr().out
    assert table.count("no licence") == 1 and table.count("as in 'usable samples'") > 5


class Refusing(Law):
    def evaluate(self, gradient, state, dt, hint=None):
        raise OSError("no licence")


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "coupling.conformance", "coupling.closed_forms:NeoHookean"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "missing 2 required positional arguments" in done.stderr
