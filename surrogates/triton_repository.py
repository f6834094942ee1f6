"""Model repositories of Triton, the inference server that a pool of GPUs is usually behind.

    REPOSITORY/NAME/config.pbtxt      what the model takes and gives, batches merged from waiting requests
    REPOSITORY/NAME/1/model.onnx      version 1, for Triton's ONNX Runtime backend; no code, no torch on the server

The newest two versions are served, so that a run that uses the older one can go on with it.

The configuration carries the closure's specification, which :class:`coupling.TritonSurrogate` reads there.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from dataclasses import asdict
from pathlib import Path

from coupling.errors import ModelError
from coupling.files import write_atomically
from coupling.symmetric import packed_size
from surrogates.model_folder import TrainedSurrogate
from surrogates.onnx_model import Served, onnx_model, served
from surrogates.torch_surrogate import TorchSurrogate

LARGEST_BATCH = 8192


def export_triton(
    surrogate: TrainedSurrogate | TorchSurrogate,
    repository: str | Path,
    *,
    name: str,
    max_batch_size: int = LARGEST_BATCH,
) -> Path:
    """Add a model to a repository, or a version to a model that is there, and return the folder of the version.

    A running server that watches the repository sees a version completely or not at all.

    Args:
        surrogate: on the CPU.
        repository: made where it is missing.
        name: of the model.
        max_batch_size: points that the server evaluates at once at most; clients cut larger requests.

    Raises:
        ModelError: where the surrogate has no ONNX form, the name is none, or a model of that name is there that takes
            or gives something else.
        MissingPackageError: where onnx or onnxscript are missing.
        OSError: where the repository cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ModelError(f"the name of a Triton model is made of letters, digits, '_', '-' and '.', got {name!r}")
    module = served(surrogate)
    folder = Path(repository) / name
    text = configuration(module, name, max_batch_size)
    present = folder / "config.pbtxt"
    if folder.exists() and (not present.exists() or present.read_text(encoding="utf-8") != text):
        raise ModelError(f"{folder} is there and no older version of the same model: choose another name, or delete it")
    content = onnx_model(module)
    folder.mkdir(parents=True, exist_ok=True)
    version = folder / str(max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0) + 1)
    aside = folder / f".{secrets.token_hex(4)}.part"
    try:
        aside.mkdir()
        write_atomically(aside / "model.onnx", content)
        os.rename(aside, version)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if not present.exists():
        write_atomically(present, text)
    return version


def configuration(module: Served, name: str, max_batch_size: int) -> str:
    """The text of ``config.pbtxt``."""
    spec = module.card.spec
    k, m = spec.k, spec.m
    shapes = {"flux": [m], "tangent": [packed_size(k)] if spec.symmetric else [m, k]}
    outputs = [
        _tensor(name, "TYPE_INT8" if name == "status" else "TYPE_FP64", shapes.get(name, [1])) for name in module.names
    ]
    return "\n".join(
        [
            f'name: "{name}"',
            'platform: "onnxruntime_onnx"',
            f"max_batch_size: {max_batch_size}",
            f"input [\n{_tensor('gradient', 'TYPE_FP64', [k])}\n]",
            "output [\n" + ",\n".join(outputs) + "\n]",
            "dynamic_batching { }",
            "version_policy { latest { num_versions: 2 } }",
            f'parameters {{ key: "twoscale_spec" value {{ string_value: {json.dumps(json.dumps(asdict(spec)))} }} }}',
            "",
        ]
    )


def _tensor(name: str, data_type: str, dims: list[int]) -> str:
    return f'  {{ name: "{name}" data_type: {data_type} dims: {dims} }}'
