"""What a closure raises in a callback of PETSc arrives, whatever the garbage collector has to do at that moment."""

import subprocess
import sys
import textwrap

import pytest


@pytest.mark.timeout(120)
def test_an_error_survives_a_collection_that_is_due():
    """A process of its own, as what is tested against is a crash."""
    program = """
        import gc
        from petsc4py import PETSc
        from coupling import ClosureSpec
        from solver_adapters.petsc_fd import FaceFlux

        class Raising:
            spec = ClosureSpec(("g1",), ("q1",), (0.0,))

            def initial_state(self, n):
                return None

            def evaluate(self, gradient, state, dt, hint=None):
                self.counted = [[] for _ in range(self.allocations)]
                raise ValueError("too warm")

        da = PETSc.DMDA().create(sizes=(4,), stencil_type="box", stencil_width=1, comm=PETSc.COMM_SELF)
        da.setUniformCoordinates(0, 1)
        closure = Raising()
        fluxes = FaceFlux(da, closure)
        snes, x, r = PETSc.SNES().create(PETSc.COMM_SELF), da.createGlobalVec(), da.createGlobalVec()
        snes.setFunction(lambda snes, x, f: fluxes.add_divergence(x, f), r)
        gc.freeze()
        due = gc.get_threshold()[0]
        for closure.allocations in range(due - 300, due + 3, 3):
            closure.counted = None
            gc.collect()
            try:
                snes.computeFunction(x, r)
            except PETSc.Error as error:
                print(repr(error.__cause__))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert set(result.stdout.splitlines()) == {"ValueError('too warm')"}
    assert len(result.stdout.splitlines()) == 101
