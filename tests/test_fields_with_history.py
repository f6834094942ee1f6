"""Field predictors with features of the history: a composite cell whose matrix flows plastically, under random strains.

The fluctuation field at the end of an increment depends on the plastic strain at its start: what is known are the
strain and the averages of the committed plastic state.
"""

from itertools import count

from mpi4py import MPI

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh

from coupling.closed_forms import LinearElastic, VonMisesPlasticity, lame
from coupling.errors import ModelError
from coupling.guess import Guess
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem, load_steps, mandel
from surrogates import FieldPredictor

MATRIX = VonMisesPlasticity(*lame(70.0, 0.3), 0.2, hardening=1.0)
FIBRE = LinearElastic(*lame(400.0, 0.2))
AMPLITUDE, STEPS, PATHS = 0.008, 5, 60
prefixes = (f"cell{i}_" for i in count())


class Cell:
    """A square with a stiff square inside, whose boundary follows a macroscopic strain; its unknown is w."""

    def __init__(self):
        square = mesh.create_unit_square(MPI.COMM_SELF, 6, 6)
        V = fem.functionspace(square, ("Lagrange", 1, (2,)))
        self.w, v = fem.Function(V), ufl.TestFunction(V)
        self.strain = fem.Constant(square, np.zeros((2, 2)))
        inner = mesh.locate_entities(square, 2, lambda x: (abs(x[:2] - 0.5) < 0.26).all(axis=0))
        tags = np.ones(square.topology.index_map(2).size_local, dtype=np.int32)
        tags[inner] = 2
        dx = ufl.Measure("dx", square, subdomain_data=mesh.meshtags(square, 2, np.arange(len(tags)), tags))
        e = mandel(self.strain + ufl.sym(ufl.grad(self.w)))
        self.matrix, fibre = (ClosureFlux(e, law, dx(i, degree=1)) for i, law in ((1, MATRIX), (2, FIBRE)))
        residual = sum(ufl.inner(q.vector, mandel(ufl.sym(ufl.grad(v)))) * q.dx for q in (self.matrix, fibre))
        edge = fem.locate_dofs_geometrical(V, lambda x: np.isclose(np.abs(x[:2] - 0.5), 0.5).any(axis=0))
        self.problem = MultiscaleProblem(
            residual,
            self.w,
            fluxes=[self.matrix, fibre],
            bcs=[fem.dirichletbc(np.zeros(2), edge, V)],
            petsc_options_prefix=next(prefixes),
        )

    def follow(self, strains, predictor):
        """Bring the cell through strains (steps, 3), in Mandel form; Newton iterations."""

        def apply(t):
            a, b, c = strains[round(t * len(strains)) - 1] if t > 0 else np.zeros(3)
            self.strain.value[:] = [[a, c / np.sqrt(2)], [c / np.sqrt(2), b]]

        records = load_steps(self.problem, apply, steps=len(strains), predictor=predictor)
        return sum(record.iterations for record in records)

    def known(self):
        """What is known at the start of an increment: strain and averages of the committed plastic state (1, 7)."""
        strain, plastic = self.strain.value, self.matrix.state.mean(axis=0)
        of_strain = strain[0, 0], strain[1, 1], np.sqrt(2) * strain[0, 1]
        return np.array([[*of_strain, *plastic[[0, 1, 3, 4]]]])  # plastic strain is isochoric


class Recorder:
    """No guesses; keeps what was known when one was asked for, and what was found."""

    def __init__(self, cell):
        self.cell, self.known, self.found = cell, [], []

    def predict(self, known):
        self.known.append(self.cell.known()[0])
        return Guess.none(1, 0)

    def observe(self, known, found):
        self.found.append(found[0].copy())


class InCell:
    """A field predictor that is asked what the cell knows."""

    def __init__(self, cell, fields, columns):
        self.cell, self.fields, self.columns = cell, fields, columns

    def predict(self, known):
        return self.fields.predict(self.cell.known()[:, self.columns])

    def observe(self, known, found):
        pass


def paths(n, seed):
    return AMPLITUDE * np.random.default_rng(seed).uniform(-1, 1, (n, STEPS, 3))


def recorded(n, seed):
    """Known (n·steps, 7) and fields (n·steps, N) of random paths."""
    known, fields = [], []
    for path in paths(n, seed):
        cell = Cell()
        recorder = Recorder(cell)
        cell.follow(path, recorder)
        cell.problem.close()
        known += recorder.known
        fields += recorder.found[1:]
    return np.array(known), np.array(fields)


@pytest.fixture(scope="module")
def samples():
    return recorded(PATHS, seed=0)


def relative_error(fields, known, found):
    return np.linalg.norm(fields.predict(known).values - found) / np.linalg.norm(found)


@pytest.mark.parametrize(("method", "least_gain"), [("kernel", 2.0), ("network", 1.3)])
def test_history_in_further_columns_improves_fields_and_saves_iterations(samples, method, least_gain):
    known, found = samples
    fresh, exact = recorded(10, seed=1)
    errors, iterations, columns = {}, {"previous": 0.0}, {"strain": [0, 1, 2], "strain and history": list(range(7))}
    for name, these in columns.items():
        reference = np.zeros(len(these))
        fields = FieldPredictor.fit(known[:, these], found, reference=reference, coefficients=method, most_modes=10)
        errors[name], iterations[name] = relative_error(fields, fresh[:, these], exact), 0
        for path in paths(6, seed=2):
            cell, usual = Cell(), Cell()
            iterations[name] += cell.follow(path, InCell(cell, fields, these))
            iterations["previous"] += usual.follow(path, "previous") / len(columns)
            np.testing.assert_allclose(cell.problem.solution, usual.problem.solution, atol=1e-8 * AMPLITUDE)
            assert cell.problem.ledger.counts["macro/guesses used"] >= STEPS - 1
            for one in (cell, usual):
                one.problem.close()
    assert errors["strain and history"] < errors["strain"] / least_gain
    assert iterations["strain and history"] < 0.8 * iterations["previous"]
    assert iterations["strain and history"] <= iterations["strain"]


def test_features_that_follow_from_others_are_refused(samples):
    """Plastic strain is isochoric: with all of its components the polynomial is not determined."""
    known, found = samples
    dependent = np.column_stack((known, -known[:, 3] - known[:, 4]))
    constant = np.column_stack((known[:, :3], np.ones(len(known))))
    for columns in (dependent, constant):
        with pytest.raises(ModelError, match="follow from others"):
            FieldPredictor.fit(columns, found, reference=np.zeros(columns.shape[1]))
