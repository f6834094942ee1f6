"""Surrogates of fine-scale closures: energies learned from samples, with stress and tangent as exact derivatives.

>>> from surrogates import fit_polynomial, sample, save_model, stretch_design, train_energy_network

1. ``stretch_design`` chooses stretches, ``sample`` evaluates a fine-scale closure at them: a :class:`Dataset`.
2. ``train_energy_network`` or ``fit_polynomial`` turn it into an :class:`EnergySurrogate`, a closure U → T.
3. ``coupling.stretch.StretchFrame(surrogate)`` is the closure F → P that a macro adapter takes.
4. Without energies (conduction, small strain, several operands): ``box_design``, ``sample``, ``fit_polynomial_flux``.
5. ``save_model`` and ``load_model`` keep it as a folder.
6. ``FieldPredictor`` starts the iterations of RVEs; ``save_predictor`` and ``load_predictor`` keep it.
"""

from surrogates.box import Box
from surrogates.dataset import Dataset
from surrogates.energy_network import EnergyNetwork
from surrogates.energy_surrogate import EnergySurrogate
from surrogates.field_predictor import FieldPredictor
from surrogates.kernel_surrogate import KernelSurrogate
from surrogates.model_card import HoldOutErrors, ModelCard
from surrogates.model_folder import TrainedSurrogate, load_model, save_model
from surrogates.online_polynomial import OnlinePolynomial
from surrogates.polynomial_energy import PolynomialEnergy
from surrogates.polynomial_flux import PolynomialFlux, fit_polynomial_flux
from surrogates.predictor_folder import load_predictor, save_predictor
from surrogates.sampling import Design, box_design, sample, stretch_design
from surrogates.stretch_space import StretchBox
from surrogates.training import fit_polynomial, train_energy_network

__all__ = [
    "Box",
    "Dataset",
    "Design",
    "EnergyNetwork",
    "EnergySurrogate",
    "FieldPredictor",
    "HoldOutErrors",
    "KernelSurrogate",
    "ModelCard",
    "OnlinePolynomial",
    "PolynomialEnergy",
    "PolynomialFlux",
    "StretchBox",
    "TrainedSurrogate",
    "box_design",
    "fit_polynomial",
    "fit_polynomial_flux",
    "load_model",
    "load_predictor",
    "sample",
    "save_model",
    "save_predictor",
    "stretch_design",
    "train_energy_network",
]
