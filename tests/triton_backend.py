"""Triton's backend "onnxruntime" in Python, for installations of Triton that lack NVIDIA's own in C++.

Triton runs this file by its Python backend; models are the same as for NVIDIA's. Arrays go through DLPack: the Python
backend of nvidia-pytriton was built for NumPy 1 and misreads the arrays of NumPy 2.
"""

import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def execute(self, requests):
        inputs = [{tensor.name(): np.from_dlpack(tensor) for tensor in request.inputs()} for request in requests]
        batch = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
        results = dict(zip(self.names, self.session.run(self.names, batch), strict=True))
        responses, start = [], 0
        for request, one in zip(requests, inputs, strict=True):
            end = start + len(next(iter(one.values())))
            wanted = request.requested_output_names()
            tensors = [triton.Tensor.from_dlpack(name, results[name][start:end].copy()) for name in wanted]
            responses.append(triton.InferenceResponse(tensors))
            start = end
        return responses
