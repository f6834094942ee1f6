"""Models that the tests of exports and of Triton share."""

from __future__ import annotations

import torch

from coupling.closed_forms import StretchNeoHookean
from surrogates.program_card import ProgramCard
from surrogates.torch_surrogate import TorchSurrogate

MU, LMBDA = 1.1, 1.7  # neither of which single precision can represent
LAW = StretchNeoHookean(MU, LMBDA)
LOWER, UPPER = (0.5, 0.5, -0.5), (2.0, 2.0, 0.5)


class NeoHookeanEnergy(torch.nn.Module):
    """Ŵ(U) = μ/2 (U·U − 2 − 2 ln J) + λ/2 (ln J)², the energy of :class:`coupling.closed_forms.StretchNeoHookean`."""

    def __init__(self, mu: float = MU, lmbda: float = LMBDA) -> None:
        super().__init__()
        self.mu, self.lmbda = mu, lmbda

    def forward(self, U: torch.Tensor) -> torch.Tensor:
        log_J = torch.log(U[:, 0] * U[:, 1] - 0.5 * U[:, 2] ** 2)
        energy: torch.Tensor = 0.5 * self.mu * ((U * U).sum(1) - 2.0 - 2.0 * log_J) + 0.5 * self.lmbda * log_J**2
        return energy


class NeoHookeanFlux(NeoHookeanEnergy):
    """T = ∂Ŵ/∂U, written out."""

    def forward(self, U: torch.Tensor) -> torch.Tensor:
        J = U[:, 0] * U[:, 1] - 0.5 * U[:, 2] ** 2
        cofactor = torch.stack([U[:, 1], U[:, 0], -U[:, 2]], 1)
        flux: torch.Tensor = self.mu * U + ((self.lmbda * torch.log(J) - self.mu) / J)[:, None] * cofactor
        return flux


def own_energy(device: str = "cpu") -> TorchSurrogate:
    """A user's own energy."""
    return TorchSurrogate(NeoHookeanEnergy(), ProgramCard(LAW.spec, ("energy",), LOWER, UPPER, 1e-3), device=device)


def own_flux(device: str = "cpu") -> TorchSurrogate:
    """A user's own flux, usable everywhere and without a stated error."""
    return TorchSurrogate(NeoHookeanFlux(), ProgramCard(LAW.spec, ("flux",)), device=device)
