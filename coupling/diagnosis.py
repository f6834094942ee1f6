"""What is wrong with an installation, and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from coupling.environment import Package

OLDEST_DOLFINX = (0, 9)
_NEEDED_FOR = {
    "torch": "GPUs and the training of networks on them: pip install torch",
    "mpi4py": "everything that runs on ranks: pip install mpi4py, built for the MPI library of DOLFINx",
    "petsc4py": "RVEs and macro problems: it comes with DOLFINx (conda install -c conda-forge fenics-dolfinx)",
    "dolfinx": "RVEs and macro problems: conda install -c conda-forge fenics-dolfinx, or apt install python3-dolfinx",
    "meshio": "RVE meshes: pip install meshio",
    "gmsh": "generated RVE meshes: pip install gmsh",
}
_FAST = "install OpenBLAS (apt install libopenblas0-pthread, or conda install 'libblas=*=*openblas')"


@dataclass(frozen=True)
class Finding:
    """Something to know about an installation.

    Args:
        wrong: whether it spoils results or speed; otherwise it is merely not there.
        what: what was found.
        mend: what to do.
    """

    wrong: bool
    what: str
    mend: str


def findings(
    packages: Sequence[Package], environment: Mapping[str, str], *, cores: int, gpus: Sequence[str]
) -> Iterator[Finding]:
    """All there is to say, what is wrong first.

    Args:
        packages: from :func:`coupling.environment.packages`.
        environment: variables of the process.
        cores: that it may use.
        gpus: that the operating system shows.
    """
    found = {package.name: package for package in packages}
    for package in packages:
        yield from _package(package, cores)
    dolfinx, petsc, torch = found.get("dolfinx"), found.get("petsc4py"), found.get("torch")
    if dolfinx is not None and dolfinx.version is not None and _numbers(dolfinx.version) < OLDEST_DOLFINX:
        oldest = ".".join(map(str, OLDEST_DOLFINX))
        yield Finding(True, f"DOLFINx {dolfinx.version} is older than {oldest}", f"update DOLFINx to {oldest} or later")
    if petsc is not None and "complex" in str(petsc.details.get("scalar", "")):
        yield Finding(True, "PETSc computes with complex numbers", "take the build of PETSc with real numbers")
    if gpus and torch is not None and torch.version is not None and not torch.details.get("gpus"):
        mend = "install a torch built for CUDA and a driver that is recent enough for it"
        yield Finding(True, f"{len(gpus)} GPUs are there, but torch {torch.version} cannot use any", mend)
    if cores > 1 and not any(environment.get(name) for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")):
        mend = "export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1, so that ranks do not fight over the cores"
        yield Finding(True, f"threads are not pinned: OMP_NUM_THREADS is not set on {cores} cores", mend)
    for name, use in _NEEDED_FOR.items():
        package_found = found.get(name)
        if package_found is not None and package_found.version is None and package_found.error is None:
            purpose, _, mend = use.partition(": ")
            yield Finding(False, f"{name} is not installed, which is needed for {purpose}", mend)


def _package(package: Package, cores: int) -> Iterator[Finding]:
    if package.error is not None:
        mend = "install it again, built against the same libraries as the rest of the environment"
        yield Finding(True, f"{package.name} cannot be imported: {package.error}", mend)
    if package.blas == "reference BLAS":
        yield Finding(True, f"{package.name} runs on the reference BLAS, several times slower than others", _FAST)
    if package.name == "numpy" and package.details.get("threads", 1) > max(1, cores):
        threads = package.details["threads"]
        yield Finding(True, f"NumPy starts {threads} threads on {cores} cores", "export OPENBLAS_NUM_THREADS=1")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
