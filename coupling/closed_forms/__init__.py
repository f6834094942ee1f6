"""Closures in closed form: exact, fast, and good for trying out everything that takes a closure.

They take n points at once, have exact tangents and need nothing but NumPy.
"""

from coupling.closed_forms.hyperelastic import NeoHookean, StretchNeoHookean
from coupling.closed_forms.imperfect import ClosedFormSurrogate, FailingClosure
from coupling.closed_forms.linear import (
    Conduction,
    LinearElastic,
    StandardLinearSolid,
    ThermoElastic,
    isotropic_stiffness,
    lame,
)
from coupling.closed_forms.plasticity import VonMisesPlasticity

__all__ = [
    "ClosedFormSurrogate",
    "Conduction",
    "FailingClosure",
    "LinearElastic",
    "NeoHookean",
    "StandardLinearSolid",
    "StretchNeoHookean",
    "ThermoElastic",
    "VonMisesPlasticity",
    "isotropic_stiffness",
    "lame",
]
