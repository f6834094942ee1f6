"""The errors twoscale raises.

    TwoscaleError
    ├── ContractError        arrays, specifications or arguments that do not fit the closure contract
    ├── MeshError            a mesh that cannot serve as an RVE
    ├── ModelError           a model folder or data set that is damaged or does not fit
    ├── ClosureError         a closure failed at some points
    │   └── StepError        a load step failed after every permitted cut-back
    ├── RemoteRankError      another rank of the communicator failed; its message is quoted
    └── MissingPackageError  an optional package is needed for what was asked

A failure at single points is not an exception but a value of :class:`coupling.contract.Status`; the exceptions here are
for what stops a run, and a run on several ranks is stopped on all of them (:mod:`coupling.agreement`).
"""


class TwoscaleError(Exception):
    """Base of every error that twoscale raises on purpose."""


class ContractError(TwoscaleError, ValueError):
    """An array, specification or argument does not fit the closure contract."""


class MeshError(TwoscaleError, ValueError):
    """A mesh cannot serve as an RVE."""


class ModelError(TwoscaleError, ValueError):
    """A model folder or a data set is damaged, foreign, or does not fit its use."""


class ClosureError(TwoscaleError, RuntimeError):
    """A closure failed at some points."""


class StepError(ClosureError):
    """A load step failed after every permitted cut-back."""


class RemoteRankError(TwoscaleError, RuntimeError):
    """Another rank failed; this rank stops with it."""


class MissingPackageError(TwoscaleError, ImportError):
    """An optional package is needed for what was asked."""
