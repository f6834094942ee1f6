"""The model server: one process that evaluates a surrogate for all ranks of a node, or for those near one of its GPUs.

A rank passes :class:`RemoteSurrogate` wherever a surrogate goes. The server runs outside the MPI job
(:mod:`coupling.serving.supervisor`), one for each GPU (:mod:`coupling.serving.locality`), shares one memory segment
with every client (:mod:`coupling.serving.segment`) and hears of requests through a socket
(:mod:`coupling.serving.frames`); it loads models by name, and knows nothing of what they are made with
(:mod:`coupling.serving.loading`).
"""

from coupling.serving.breaker import Breaker
from coupling.serving.collective import CollectiveSurrogate
from coupling.serving.exchange import Ticket
from coupling.serving.kserve_model import Tls
from coupling.serving.link import ask
from coupling.serving.locality import device_of_rank
from coupling.serving.remote_surrogate import RemoteSurrogate
from coupling.serving.triton_surrogate import TritonSurrogate

__all__ = [
    "Breaker",
    "CollectiveSurrogate",
    "RemoteSurrogate",
    "Ticket",
    "Tls",
    "TritonSurrogate",
    "ask",
    "device_of_rank",
]
