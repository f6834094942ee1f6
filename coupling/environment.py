"""What this installation consists of, what is wrong with it, and how to mend that.

Every package is asked in a process of its own, without the variables of an MPI launcher: a package that crashes on
import is an answer then, and the libraries that it maps into memory are its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SECONDS = 120.0
_MAPPED = """
def mapped():
    try:
        return sorted({l.split()[-1] for l in open("/proc/self/maps") if ".so" in l})
    except OSError:
        return []
"""
PROBES = {
    "numpy": "import numpy as m; a = m.ones((64, 64)); a @ a; import os"
    '\nanswer = {"files": mapped(), "threads": len(os.listdir("/proc/self/task"))}',
    "torch": 'import sys; sys.modules["numpy"] = None; import warnings; warnings.simplefilter("ignore")'
    '\nimport torch as m; answer = {"files": mapped(), "threads": m.get_num_threads(), "built": m.__config__.show(),'
    ' "gpus": [m.cuda.get_device_name(i) for i in range(m.cuda.device_count())] if m.cuda.is_available() else []}',
    "mpi4py": "import mpi4py as m; m.rc.initialize = False; from mpi4py import MPI"
    '\nanswer = {"library": MPI.Get_library_version().splitlines()[0].split(", package")[0].strip("\\0 ")}',
    "petsc4py": 'import petsc4py as m; answer = {}; petsc4py = m; m.init(["twoscale"]); from petsc4py import PETSc'
    '\nanswer = {"scalar": str(PETSc.ScalarType().dtype), "petsc": ".".join(map(str, PETSc.Sys.getVersion()))}',
    "dolfinx": "import dolfinx as m; answer = {}",
    "meshio": "import meshio as m; answer = {}",
    "gmsh": "import gmsh as m; answer = {}",
}
"""Package → a program that imports it as m and leaves what else is to be known of it in ``answer``."""

_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "HYDRA_", "MPI_LOCAL")
_LIBRARIES = (
    ("MKL", "libmkl"),
    ("OpenBLAS", "openblas"),
    ("BLIS", "blis"),
    ("ATLAS", "atlas"),
    ("FlexiBLAS", "flexiblas"),
    ("reference BLAS", "libblas.so"),
    ("reference BLAS", "libcblas.so"),
)
_BUILT = {"mkl": "MKL", "open": "OpenBLAS", "openblas": "OpenBLAS", "accelerate": "Accelerate", "nvpl": "NVPL"}


@dataclass(frozen=True)
class Package:
    """One package.

    Args:
        name: as it is imported.
        version: None where it is not installed or cannot be imported.
        error: why it cannot be imported, None where it can or is not installed.
        details: what else is known, see :data:`PROBES`.
    """

    name: str
    version: str | None
    error: str | None
    details: Mapping[str, Any]

    @property
    def blas(self) -> str | None:
        """Name of the BLAS it computes with, where that can be told."""
        return blas_of(self.details.get("files", []), self.details.get("built", ""))


def blas_of(files: list[str], built: str = "") -> str | None:
    """Name of the BLAS among the files of shared libraries, else in the description of a build."""
    for name, part in _LIBRARIES:
        if any(part in file for file in files):
            return name
    found = re.search(r"BLAS_INFO=(\w+)", built)
    return None if found is None else _BUILT.get(found[1].lower(), found[1])


def packages() -> list[Package]:
    """All packages of :data:`PROBES`, in that order."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(_probe, PROBES))


def gpu_files() -> list[str]:
    """The NVIDIA GPUs that the operating system shows."""
    return sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))


def twoscale_version() -> str:
    """The installed version, or where it is run from."""
    try:
        return version("twoscale")
    except PackageNotFoundError:
        return f"not installed, from {Path(__file__).parents[1]}"


def _probe(name: str) -> Package:
    program = f"{_MAPPED}\n{PROBES[name]}\nimport json\nanswer['version'] = getattr(m, '__version__', 'unknown')\n"
    program += "print('\\n' + json.dumps(answer), flush=True)\nimport os; os._exit(0)"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_LAUNCHERS)}
    environment |= {key: value for key, value in os.environ.items() if key.startswith(("OMPI_ALLOW", "OMPI_MCA"))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Package(name, None, f"import does not end within {SECONDS:.0f} s", {})
    if done.returncode == 0:
        details = json.loads(done.stdout.strip().splitlines()[-1])
        return Package(name, details.pop("version"), None, details)
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    missing = f"No module named '{name}'" in last
    return Package(name, None, None if missing else last, {})
