"""A KServe v2 server that does no more than it must: typed contents, no shared memory, no settings."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from coupling.contract import Closure


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # comes without types
    """A closure under the name "law"."""

    def __init__(self, closure: Closure) -> None:
        self.closure = closure

    def ModelMetadata(self, request, context):
        k, m = self.closure.spec.k, self.closure.spec.m
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        outputs = [
            tensor(name="flux", datatype="FP64", shape=[-1, m]),
            tensor(name="tangent", datatype="FP64", shape=[-1, m, k]),
        ]
        inputs = [tensor(name="gradient", datatype="FP64", shape=[-1, k])]
        return service_pb2.ModelMetadataResponse(name="law", inputs=inputs, outputs=outputs)

    def ModelInfer(self, request, context):
        gradient = np.frombuffer(request.raw_input_contents[0]).reshape(request.inputs[0].shape)
        answer = self.closure.evaluate(gradient, None, 1.0)
        response = service_pb2.ModelInferResponse(model_name="law")
        for name in ("flux", "tangent"):
            array = getattr(answer, name)
            tensor = response.outputs.add(name=name, datatype="FP64", shape=array.shape)
            tensor.contents.fp64_contents.extend(array.ravel())
        return response


@contextmanager
def kserve(closure: Closure) -> Iterator[str]:
    """Address of a server of the closure."""
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(closure), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None)
