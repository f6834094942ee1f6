"""A connection to one model of a server that speaks KServe v2 over gRPC: Triton, MLServer, …."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from numpy.typing import NDArray

from coupling.contract import Array, ClosureSpec
from coupling.errors import MissingPackageError, ServerError, ServerRefusedError, ServerUnavailableError
from coupling.serving.kserve_memory import (
    CudaRegion,
    MessageTransfer,
    Region,
    RegionTransfer,
    SystemRegion,
    Transfer,
)
from coupling.serving.kserve_model import Memory, Place, configured_spec, newest, outputs_of

BATCH = 8192
_GOODBYE = 1.0  # seconds that a server may take to unmap memory
_LOST = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED"}
_CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),  # a new channel shall not wait for the next attempt of an old one
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
]


class Connection:
    """A connection to a model that is ready and fits.

    Args:
        place: where the model is served.
        spec: what it takes and gives; None reads what ``twoscale export --triton`` wrote into its configuration.
        batch: points per request; None takes what the configuration allows, or 8,192.
        deadline: time (``time.monotonic``) until when this may take.

    Raises:
        MissingPackageError: where tritonclient is missing.
        ServerUnavailableError: where no server answers in time.
        ServerRefusedError: where it has no such model, or one that does not fit; says what does not.
    """

    def __init__(self, place: Place, spec: ClosureSpec | None, batch: int | None, deadline: float) -> None:
        self.place, self._grpc = place, grpc_client()
        self._region: Region | None = None
        self._lost = False
        tls = {} if place.tls is None else {"ssl": True, **vars(place.tls)}
        self._client = self._grpc.InferenceServerClient(place.address, channel_args=_CHANNEL, **tls)
        self._memory: Memory = place.memory
        if self._memory == "auto" and not place.is_here:
            self._memory = "message"
        try:
            metadata = self._ask("get_model_metadata", deadline, place.model, place.version)
            self.version = place.version or newest(metadata.versions)
            configured = self._configuration(deadline) if spec is None or batch is None else {}
            self.spec = spec or configured_spec(configured, place)
            self.batch = batch or configured.get("max_batch_size") or BATCH
            self.outputs = outputs_of(metadata, self.spec, place)
        except BaseException:
            self.close()
            raise

    def evaluate(self, gradient: Array, deadline: float) -> dict[str, NDArray[Any]]:
        """The results for gradients (n, k), n > 0, by name; fresh arrays.

        After an error the connection is of no use.

        Raises:
            ServerUnavailableError: where the server has gone, or does not answer until the deadline.
            ServerRefusedError: where it says no.
        """
        n = len(gradient)
        parts = [slice(start, min(start + self.batch, n)) for start in range(0, n, self.batch)]
        try:
            transfer = self._transfer(gradient, deadline)
            requests = [{**self._model(), **transfer.tensors(part)} for part in parts]
            if len(requests) == 1:
                answers = [self._ask("infer", deadline, **requests[0])]
            else:
                answers = self._ask_all(requests, deadline)
        except ServerUnavailableError:
            self._lost = True
            raise
        return transfer.results(answers, parts)

    def close(self) -> None:
        """Leave; requests under way are cancelled. The server unmaps what was shared, unless it is lost."""
        if self._region is not None and not self._lost:
            with suppress(ServerError):
                self._unregister(self._region.name, time.monotonic() + _GOODBYE)
        self._client.close()
        self._client = None  # its own destructor fails where it runs after gRPC's at the end of the process
        self._drop_region()

    def _model(self) -> dict[str, str]:
        return {"model_name": self.place.model, "model_version": self.version}

    def _configuration(self, deadline: float) -> dict[str, Any]:
        """The model's configuration, empty where the server has no such thing (KServe v2 does not know it)."""
        try:
            config: dict[str, Any] = self._ask(
                "get_model_config", deadline, self.place.model, self.version, as_json=True
            )
        except ServerUnavailableError:
            raise
        except ServerError:
            return {}
        return dict(config.get("config", {}))

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _transfer(self, gradient: Array, deadline: float) -> Transfer:
        if self._memory != "message":
            size = RegionTransfer.size(gradient, self.outputs)
            if self._region is None or self._region.size < size:
                self._new_region(1 << (size - 1).bit_length(), deadline)
        if self._region is None:
            return MessageTransfer(self._grpc, gradient, self.outputs)
        return RegionTransfer(self._grpc, gradient, self.outputs, self._region)

    def _new_region(self, size: int, deadline: float) -> None:
        """Share memory with the server; with ``auto`` do without where it cannot."""
        if self._region is not None:
            name = self._region.name
            self._drop_region()
            self._unregister(name, deadline)
        region: Region = CudaRegion(size, self.place.device) if self._memory == "cuda" else SystemRegion(size)
        try:
            with self._translated(deadline) as options:
                region.register(self._client, **options)
        except ServerError:
            region.close()
            if self._memory != "auto":
                raise
            self._memory = "message"
        else:
            self._region = region

    def _unregister(self, name: str, deadline: float) -> None:
        kind = "cuda" if self._memory == "cuda" else "system"
        self._ask(f"unregister_{kind}_shared_memory", deadline, name)

    def _drop_region(self) -> None:
        if self._region is not None:
            self._region.close()
            self._region = None

    # ---- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, method: str, deadline: float, *arguments: Any, **options: Any) -> Any:
        with self._translated(deadline) as common:
            return getattr(self._client, method)(*arguments, **options, **common)

    def _ask_all(self, requests: list[dict[str, Any]], deadline: float) -> list[Any]:
        """The answers to several requests, which are under way at the same time."""
        arrived: SimpleQueue[tuple[int, Any, Any]] = SimpleQueue()
        answers: list[Any] = [None] * len(requests)
        with self._translated(deadline) as common:
            for index, request in enumerate(requests):

                def arrive(result: Any, error: Any, index: int = index) -> None:
                    arrived.put((index, result, error))

                self._client.async_infer(callback=arrive, **request, **common)
            for _ in requests:
                try:
                    index, answer, error = arrived.get(timeout=max(deadline - time.monotonic(), 0.0) + 1.0)
                except Empty:
                    raise ServerUnavailableError(f"the server at {self.place.address} gave no answer in time") from None
                if error is not None:
                    raise error
                answers[index] = answer
        return answers

    @contextmanager
    def _translated(self, deadline: float) -> Iterator[dict[str, Any]]:
        """Options of every call; within, tritonclient's errors become those of this project."""
        from tritonclient.utils import InferenceServerException

        try:
            yield {"headers": self.place.headers, "client_timeout": max(deadline - time.monotonic(), 1e-3)}
        except InferenceServerException as error:
            status = str(error.status()).removeprefix("StatusCode.")
            words = f"the server at {self.place.address}: {error.message()} ({status})"
            # A server that was started again knows nothing of the memory that was shared with its predecessor.
            forgotten = self._region is not None and "shared memory region" in str(error.message())
            if status in _LOST or forgotten:
                raise ServerUnavailableError(words) from error
            raise ServerRefusedError(words) from error


def grpc_client() -> Any:
    """The module ``tritonclient.grpc``.

    Raises:
        MissingPackageError: where it is missing.
    """
    try:
        import tritonclient.grpc as grpc
    except ImportError as error:
        raise MissingPackageError(
            f"a KServe v2 server is asked with tritonclient ({error}): pip install 'twoscale[triton]'"
        ) from error
    return grpc
