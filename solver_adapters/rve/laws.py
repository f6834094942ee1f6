"""Materials by name: the laws that commands and case files offer, and the kinematics that each belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from coupling.errors import ContractError
from solver_adapters.rve import energies
from solver_adapters.rve.energies import Energy
from solver_adapters.rve.histories import GeneralisedMaxwell, Material, VonMisesPlasticity
from solver_adapters.rve.kinematics import Kinematics, ScalarField, ScalarGradient, SmallStrain, Stretch

KINEMATICS: dict[str, Callable[[float], Kinematics]] = {
    "finite-strain": lambda field: Stretch(),
    "small-strain": lambda field: SmallStrain(),
    "conduction": lambda field: ScalarGradient(),
    "field-conduction": ScalarField,
}
"""Kinematics by name, from the field's value in the reference state."""


@dataclass(frozen=True)
class Law:
    """A kind of material.

    Args:
        kinematics: a key of :data:`KINEMATICS`.
        parameters: names of its numbers; the last one ends in … where any number of them may follow.
        make: the material, from the numbers and the dimension.
        history: whether it has history.
    """

    kinematics: str
    parameters: str
    make: Callable[[Sequence[float], int], Material]
    history: bool = False

    def __call__(self, numbers: Sequence[float], dim: int) -> Material:
        """The material.

        Raises:
            ContractError: another number of numbers than the law has, or values that make no material.
        """
        count = self.parameters.count(",") + 1
        if len(numbers) < 1 or (len(numbers) != count and not self.parameters.endswith("…")):
            raise ContractError(f"takes {self.parameters}, got {len(numbers)} numbers")
        return self.make(numbers, dim)


def polynomial_conduction(coefficients: Sequence[float]) -> Energy:
    """Conduction with κ(θ) = c₀ + c₁ θ + c₂ θ² + …."""

    def conductivity(theta: Any) -> Any:
        value = coefficients[-1] + 0.0 * theta
        for coefficient in coefficients[-2::-1]:
            value = value * theta + coefficient
        return value

    return energies.FieldConduction(conductivity, name=" + ".join(f"{c:g}·θ^{n}" for n, c in enumerate(coefficients)))


def _lame(make: Callable[[float, float, int], Energy]) -> Callable[[Sequence[float], int], Energy]:
    def checked(numbers: Sequence[float], dim: int) -> Energy:
        mu, lmbda = numbers
        _check_lame(mu, lmbda)
        return make(mu, lmbda, dim)

    return checked


def _check_lame(mu: float, lmbda: float) -> None:
    if not (0.0 < mu < float("inf") and 3.0 * lmbda + 2.0 * mu > 0.0 and lmbda < float("inf")):
        raise ContractError("MU and the bulk modulus LAMBDA + 2/3 MU must be above 0 and finite")


def _von_mises(numbers: Sequence[float], dim: int) -> VonMisesPlasticity:
    _check_lame(*numbers[:2])
    return VonMisesPlasticity(*numbers)


def _generalised_maxwell(numbers: Sequence[float], dim: int) -> GeneralisedMaxwell:
    if len(numbers) < 5 or len(numbers) % 3 != 2:
        raise ContractError(f"takes MU,LAMBDA and MUi,LAMBDAi,TAUi for each branch, got {len(numbers)} numbers")
    branches = tuple((mu, lmbda, time) for mu, lmbda, time in zip(*(numbers[i::3] for i in (2, 3, 4)), strict=True))
    for mu, lmbda in ((numbers[0], numbers[1]), *(branch[:2] for branch in branches)):
        _check_lame(mu, lmbda)
    return GeneralisedMaxwell(numbers[0], numbers[1], branches)


def _transversely_isotropic(numbers: Sequence[float], dim: int) -> Energy:
    axial, transverse, axial_poisson, transverse_poisson, shear, *axis = numbers
    if not min(axial, transverse, shear) > 0.0:
        raise ContractError("EA, ET and GA must be above 0")
    return energies.transversely_isotropic(
        axial_modulus=axial,
        transverse_modulus=transverse,
        axial_poisson=axial_poisson,
        transverse_poisson=transverse_poisson,
        axial_shear=shear,
        axis=axis,
        dim=dim,
    )


def _conduction(numbers: Sequence[float], dim: int) -> Energy:
    if not 0.0 < numbers[0] < float("inf"):
        raise ContractError("K must be above 0 and finite")
    return energies.Conduction(numbers[0])


LAWS = {
    "neo-hookean": Law("finite-strain", "MU,LAMBDA", _lame(lambda mu, lmbda, _: energies.NeoHookean(mu, lmbda))),
    "saint-venant-kirchhoff": Law(
        "finite-strain", "MU,LAMBDA", _lame(lambda mu, lmbda, _: energies.SaintVenantKirchhoff(mu, lmbda))
    ),
    "isotropic": Law("small-strain", "MU,LAMBDA", _lame(energies.isotropic)),
    "transversely-isotropic": Law("small-strain", "EA,ET,NUA,NUT,GA,N1,N2,N3", _transversely_isotropic),
    "von-mises": Law("small-strain", "MU,LAMBDA,YIELD,HARDENING", _von_mises, history=True),
    "generalised-maxwell": Law("small-strain", "MU,LAMBDA,MU1,LAMBDA1,TAU1,…", _generalised_maxwell, history=True),
    "conduction": Law("conduction", "K", _conduction),
    "field-conduction": Law("field-conduction", "C0,C1,…", lambda numbers, _: polynomial_conduction(numbers)),
}
