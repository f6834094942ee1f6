"""Models behind KServe v2, the protocol of Triton, MLServer and others: where they are, and what they take and give.

A model takes ``gradient`` (n, k) and gives ``flux`` (n, m) and ``tangent`` (n, m, k), or (n, k(k+1)/2), the upper
triangle row by row, where it is symmetric; ``status`` (n, 1) int8, ``uncertainty`` and ``energy`` (n, 1) where it
states them. All but the status are float64 (FP64).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from coupling.contract import ClosureSpec
from coupling.errors import ServerRefusedError
from coupling.serving.kserve_memory import INPUT, Output
from coupling.serving.link import spec_from_json
from coupling.symmetric import packed_size

Memory: TypeAlias = Literal["auto", "system", "cuda", "message"]
_TYPES: dict[str, np.dtype[Any]] = {"FP64": np.dtype(np.float64), "INT8": np.dtype(np.int8)}


@dataclass(frozen=True)
class Tls:
    """Certificates for an encrypted connection, as paths of PEM files.

    Args:
        root_certificates: that the server's certificate is checked against, None for the system's.
        private_key: of this client, where the server wants to know it.
        certificate_chain: of this client.
    """

    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a model is served.

    Args:
        address: ``host:port`` of the gRPC service.
        model: its name.
        version: its version, "" for the newest.
        tls: for an encrypted connection.
        headers: sent with every request.
        memory: how arrays travel, see :class:`coupling.TritonSurrogate`.
        device: GPU of ``memory="cuda"``.
    """

    address: str
    model: str
    version: str = ""
    tls: Tls | None = None
    headers: Mapping[str, str] | None = None
    memory: Memory = "auto"
    device: int = 0

    @property
    def is_here(self) -> bool:
        """Whether the address is one of this machine."""
        return self.address.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]", socket.gethostname())


def newest(versions: Sequence[str]) -> str:
    """The version of the highest number, "" where there are none."""
    return max(versions, key=lambda version: (int(version) if version.isdigit() else -1, version), default="")


def configured_spec(configuration: Mapping[str, Any], place: Place) -> ClosureSpec:
    """The specification in a model's configuration.

    Raises:
        ServerRefusedError: where it has none.
    """
    text = configuration.get("parameters", {}).get("twoscale_spec", {}).get("string_value")
    if text is None:
        raise ServerRefusedError(
            f"the server at {place.address} does not say what {place.model} takes and gives, as models of 'twoscale "
            "export --triton' on Triton do: pass spec="
        )
    try:
        return spec_from_json(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise ServerRefusedError(f"twoscale_spec in the configuration of {place.model} is damaged: {error}") from error


def outputs_of(metadata: Any, spec: ClosureSpec, place: Place) -> list[Output]:
    """The results that a model gives.

    Raises:
        ServerRefusedError: where names, types or shapes of what it takes or gives do not fit; says which.
    """
    where = f"{place.model} at {place.address}"
    found = {(tensor.name, tensor.datatype, tuple(tensor.shape)[1:]) for tensor in metadata.inputs}
    if spec.state_size or found != {(INPUT, "FP64", (spec.k,))}:
        raise ServerRefusedError(
            f"{where} must take one input, {INPUT} (-1, {spec.k}) FP64, for {', '.join(spec.gradient)}, and no state; "
            f"it takes {_listed(metadata.inputs)}"
        )
    given = {tensor.name: tensor for tensor in metadata.outputs}
    outputs = []
    for name, allowed in _shapes(spec).items():
        datatype = "INT8" if name == "status" else "FP64"
        tensor = given.get(name)
        if tensor is None and name not in ("flux", "tangent"):
            continue
        if tensor is None or tensor.datatype != datatype or tuple(tensor.shape)[1:] not in allowed:
            wanted = " or ".join(str((-1, *shape)) for shape in allowed)
            raise ServerRefusedError(
                f"{where} must give {name} {wanted} {datatype}, it gives {_listed(metadata.outputs)}: export it with "
                "'twoscale export --triton', or pass the spec= that it has"
            )
        outputs.append(Output(name, _TYPES[datatype], tuple(tensor.shape)[1:]))
    return outputs


def _shapes(spec: ClosureSpec) -> dict[str, list[tuple[int, ...]]]:
    """Shapes per point that results may have."""
    packed: list[tuple[int, ...]] = [(packed_size(spec.k),)] if spec.symmetric else []
    single: list[tuple[int, ...]] = [(1,)]
    tangent = [*packed, (spec.m, spec.k)]
    return {"flux": [(spec.m,)], "tangent": tangent, "status": single, "uncertainty": single, "energy": single}


def _listed(tensors: Any) -> str:
    return ", ".join(f"{tensor.name} {tuple(tensor.shape)} {tensor.datatype}" for tensor in tensors) or "nothing"
