"""Weak forms of the kinds of macroscopic problems: what the closure is given, and where its flux stands.

finite strain       ∫ P(F) : ∇v = ∫ t · v + ∫ b · v       F = 1 + ∇u
small strain        ∫ σ(ε) : ε(v) = ∫ t · v + ∫ b · v     ε = sym ∇u, Mandel form
conduction          −∫ q(∇θ) · ∇v = ∫ h v + ∫ s v         h the flow into the body
field-conduction    the same with q(θ, ∇θ)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ufl

from solver_adapters.macro.closure_flux import ClosureFlux
from solver_adapters.mandel import from_mandel, mandel


@dataclass(frozen=True)
class Formulation:
    """A kind of macroscopic problem.

    Args:
        unknown: name of the solution.
        flux: name of the flux.
        scalar: whether the unknown is a scalar, else a vector.
        operand: of the closure, from the unknown.
        internal: integrand of the internal virtual work, from the flux and the test function.
        tensor: flux as a vector or tensor for output.
    """

    unknown: str
    flux: str
    scalar: bool
    operand: Callable[[Any], Any]
    internal: Callable[[ClosureFlux, Any], Any]
    tensor: Callable[[ClosureFlux], Any]


def _deformation_gradient(u: Any) -> Any:
    return ufl.Identity(len(u)) + ufl.grad(u)


def _strain(u: Any) -> Any:
    return mandel(ufl.sym(ufl.grad(u)))


FORMULATIONS = {
    "finite-strain": Formulation(
        "displacement",
        "stress",
        False,
        _deformation_gradient,
        lambda P, v: ufl.inner(P.value, ufl.grad(v)),
        lambda P: P.value,
    ),
    "small-strain": Formulation(
        "displacement",
        "stress",
        False,
        _strain,
        lambda sigma, v: ufl.inner(sigma.vector, _strain(v)),
        lambda sigma: from_mandel(sigma.vector),
    ),
    "conduction": Formulation(
        "field",
        "flux",
        True,
        ufl.grad,
        lambda q, v: -ufl.inner(q.value, ufl.grad(v)),
        lambda q: q.value,
    ),
    "field-conduction": Formulation(
        "field",
        "flux",
        True,
        lambda theta: [theta, ufl.grad(theta)],
        lambda q, v: -ufl.inner(q.vector, ufl.grad(v)),
        lambda q: q.vector,
    ),
}
"""By the name of the kinematics, a key of :data:`solver_adapters.rve.laws.KINEMATICS`."""
