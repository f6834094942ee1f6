"""The environment: versions, fast linear algebra, pinned threads, and what must import without a solver."""

import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

SOLVERS = ("basix", "dolfinx", "ffcx", "gmsh", "meshio", "petsc4py", "slepc4py", "ufl")


def seconds(f: Callable[[], object]) -> float:
    """Least CPU time of five calls: what other processes do at the same time does not count."""
    times = []
    for _ in range(5):
        start = time.process_time()
        f()
        times.append(time.process_time() - start)
    return min(times)


def gflops(size: int, f: Callable[[], object]) -> float:
    return 2e-9 * size**3 / seconds(f)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_matrix_products_do_not_run_on_the_reference_blas(library: str) -> None:
    """The reference BLAS is slower than NumPy's own vectorised triple loop, any optimised one several times faster."""
    arrays = pytest.importorskip(library)
    rng = np.random.default_rng(0)
    loop, blas = rng.random((256, 256)), rng.random((768, 768))
    factor = arrays.from_numpy(blas) if library == "torch" else blas
    floor = gflops(256, lambda: np.einsum("ij,jk->ik", loop, loop))
    speed = gflops(768, lambda: factor @ factor)
    assert speed > 2 * floor, (
        f"{library} multiplies matrices at {speed:.1f} GFLOP/s, a plain loop at {floor:.1f}: it runs on the reference "
        f"BLAS; install OpenBLAS (libopenblas0-pthread, or libblas=*=*openblas with conda)"
    )


def test_a_thread_per_rank() -> None:
    pinned = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    if None in pinned.values():
        pytest.skip("threads are pinned by the launcher: ./run test")
    torch = pytest.importorskip("torch")
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


def test_dolfinx_version() -> None:
    dolfinx = pytest.importorskip("dolfinx")
    assert tuple(map(int, dolfinx.__version__.split(".")[:2])) >= (0, 9)


@pytest.mark.parametrize("package", ["coupling", "surrogates"])
def test_every_module_imports_without_a_solver(package: str) -> None:
    hidden = (*SOLVERS, "torch") if package == "coupling" else SOLVERS
    program = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({hidden!r}))  # importing one of these now fails
package = importlib.import_module({package!r})
names = [m.name for m in pkgutil.walk_packages(package.__path__, {package!r} + ".") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
