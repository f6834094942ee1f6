"""The coupling of a macro solver with a fine scale, and of both with a surrogate.

A *closure* maps gradients at points to fluxes, their tangents and a status per point (:mod:`coupling.contract`). A
*surrogate* is a closure that also states its uncertainty, and a *gate* says at which points that is good enough
(:mod:`coupling.gate`). The *accelerated closure* is made of a fine-scale closure, a surrogate and a gate, and is itself
a closure, so that a solver sees no difference (:mod:`coupling.accelerated`). The *balanced closure* has idle ranks take
part in the fine solves of busy ones (:mod:`coupling.balance`). The *ledger* counts and times what was done
(:mod:`coupling.ledger`), the *model server* evaluates a surrogate for all ranks of a node (:mod:`coupling.serving`),
and the *conformance suite* tells whether any closure keeps the contract (:mod:`coupling.conformance`).
"""

from coupling.accelerated import AcceleratedClosure
from coupling.agreement import together
from coupling.balance import BalancedClosure
from coupling.contract import Closure, ClosureSpec, Response, Status, mandel_components, tensor_components
from coupling.errors import (
    CaseError,
    ClosureError,
    ContractError,
    MeshError,
    MissingPackageError,
    ModelError,
    RemoteRankError,
    ServerAddressError,
    ServerError,
    ServerRefusedError,
    ServerUnavailableError,
    StepError,
    TwoscaleError,
)
from coupling.gate import Gate, RangeGate, ToleranceGate
from coupling.ledger import Ledger
from coupling.serving import CollectiveSurrogate, RemoteSurrogate, Tls, TritonSurrogate
from coupling.small_strain import StrainFrame, StretchOfStrain
from coupling.stretch import StretchFrame

__all__ = [
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
]
