"""The errors twoscale raises.

    TwoscaleError
    ├── ContractError        arrays, specifications or arguments that do not fit the closure contract
    ├── MeshError            a mesh that cannot serve as an RVE
    ├── CaseError            a case file with mistakes in it
    ├── ModelError           a model folder or data set that is damaged or does not fit
    ├── ClosureError         a closure failed at some points
    │   └── StepError        a load step failed after every permitted cut-back
    ├── RemoteRankError      another rank of the communicator failed; its message is quoted
    ├── ServerError          a model server could not do what was asked
    │   ├── ServerAddressError      its address is none, or nothing can listen there
    │   ├── ServerUnavailableError  none answers, or the one that did died or hangs
    │   └── ServerRefusedError      it answered, and said no: asking again will not help
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


class CaseError(TwoscaleError, ValueError):
    """A case file has mistakes; the message has a line for each of them, with its place in the file."""


class ModelError(TwoscaleError, ValueError):
    """A model folder or a data set is damaged, foreign, or does not fit its use."""


class ClosureError(TwoscaleError, RuntimeError):
    """A closure failed at some points."""


class StepError(ClosureError):
    """A load step failed after every permitted cut-back."""


class RemoteRankError(TwoscaleError, RuntimeError):
    """Another rank failed; this rank stops with it."""


class ServerError(TwoscaleError, RuntimeError):
    """A model server could not do what was asked."""


class ServerAddressError(ServerError, ValueError):
    """The address of a model server is none, or nothing can listen there."""


class ServerUnavailableError(ServerError):
    """No model server answers, or the one that did died or hangs."""


class ServerRefusedError(ServerError):
    """A model server said no: unknown model or version, or something that does not fit."""


class MissingPackageError(TwoscaleError, ImportError):
    """An optional package is needed for what was asked."""
