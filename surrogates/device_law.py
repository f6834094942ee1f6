"""Law and range of an energy surrogate in operations of torch alone, for devices."""

from __future__ import annotations

import numpy as np

from coupling.contract import Status
from coupling.polar import mandel_basis
from surrogates.backend import Tensor
from surrogates.model_card import ModelCard
from surrogates.potential import Potential


class RangeLaw:
    """What :class:`surrogates.energy_surrogate.EnergySurrogate` answers, in operations of torch alone."""

    def __init__(self, potential: Potential, card: ModelCard) -> None:
        torch = self._torch = potential.backend.xp
        self._potential, self._backend = potential, potential.backend
        self._k, self._dim = card.spec.k, 2 if card.spec.k == 3 else 3
        basis = mandel_basis(self._dim).reshape(self._k, -1)
        self._reference, self._lower, self._upper, self._basis = (
            torch.tensor(np.array(values), dtype=torch.float64, device=potential.backend.device)
            for values in (card.spec.reference, card.box.lower, card.box.upper, basis)
        )
        self._error = card.errors.flux_max_absolute

    def buffers(self, n: int) -> list[Tensor]:
        """Gradient (n, k), flux, tangent, status, uncertainty and energy of n points."""
        torch, k = self._torch, self._k
        U = self._reference.repeat(n, 1)
        double = {"dtype": torch.float64, "device": U.device}
        flux, tangent = torch.empty(n, k, **double), torch.empty(n, k, k, **double)
        status = torch.empty(n, dtype=torch.int8, device=U.device)
        return [U, flux, tangent, status, torch.empty(n, **double), torch.empty(n, **double)]

    def evaluate(
        self, U: Tensor, flux: Tensor, tangent: Tensor, status: Tensor, uncertainty: Tensor, energy: Tensor
    ) -> None:
        """Overwrite all results by those at U (n, k)."""
        inside = (U.ge(self._lower) & U.le(self._upper)).all(1)
        bad = ~self._positive_definite(U)
        safe = self._torch.where(bad[:, None], self._reference, U)
        if self._backend.precision == "float64":
            self._potential.evaluate(safe, energy, flux, tangent)
        else:
            single = [self._backend.empty(*values.shape) for values in (energy, flux, tangent)]
            self._potential.evaluate(safe.to(single[0].dtype), *single)
            for values, computed in zip((energy, flux, tangent), single, strict=True):
                values.copy_(computed)
        status.fill_(int(Status.OK)).masked_fill_(~inside, int(Status.OUTSIDE_RANGE))
        uncertainty.fill_(self._error).masked_fill_(~inside, np.inf)
        status.masked_fill_(bad, int(Status.INADMISSIBLE))
        for values in (flux, tangent, uncertainty, energy):
            values.masked_fill_(bad.reshape(-1, *[1] * (values.ndim - 1)), np.nan)

    def _positive_definite(self, U: Tensor) -> Tensor:
        """By Sylvester's criterion, as :func:`coupling.polar.positive_definite`."""
        A, d = U @ self._basis, self._dim
        first, minor = A[:, 0], A[:, 0] * A[:, d + 1] - A[:, 1] * A[:, 1]
        det = minor
        if d == 3:
            det = A[:, 8] * minor - A[:, 5] * (A[:, 0] * A[:, 5] - A[:, 1] * A[:, 2])
            det = det + A[:, 2] * (A[:, 1] * A[:, 5] - A[:, 4] * A[:, 2])
        return (first > 0.0) & (minor > 0.0) & (det > 0.0) & self._torch.isfinite(det)
