"""Closures as micro simulations and back: the interface by itself, and the Micro Manager where it is installed.

The preCICE library, which is on no package index, is played by a stand-in: the Micro Manager is its own.
"""

import json
import pickle
import sys
from types import ModuleType
from typing import Any

from mpi4py import MPI

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh

from coupling import ClosureError, ClosureSpec, ContractError, Status
from coupling.closed_forms import LinearElastic, NeoHookean, StandardLinearSolid
from coupling.conformance import assert_conforms
from coupling.contract import mandel_components, tensor_components
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem
from solver_adapters.micro_manager.state import StateLayout
from solver_adapters.precice_micro import MicroSimulationClosure, micro_simulation

SOLID = StandardLinearSolid(1.0, 2.0, branch_mu=0.7, branch_lmbda=0.3, relaxation_time=0.4, dim=3)
READS = {"Strain-normal": list(SOLID.spec.gradient[:3]), "Strain-shear": list(SOLID.spec.gradient[3:])}
WRITES = {"Stress-normal": list(SOLID.spec.flux[:3]), "Stress-shear": list(SOLID.spec.flux[3:])}
ALL_TANGENT = {f"C-{f}-{g}": (f, g) for f in SOLID.spec.flux for g in SOLID.spec.gradient}


def data(strain):
    return {"Strain-normal": strain[:3], "Strain-shear": strain[3:]}


# ---- a closure as micro simulation -------------------------------------------------------------------------------


def test_data_are_the_closure_in_the_declared_names():
    writes = WRITES | {"C": [("σ11", "ε11"), ("σ11", "ε22")], "C44": ("√2·σ23", "√2·ε23"), "pressure": "σ11"}
    simulation = micro_simulation(SOLID, reads=READS, writes=writes)(7)
    strain = np.array([0.01, 0.02, -0.01, 0.005, 0.0, 0.01])
    result = simulation.solve(data(strain), 0.1)
    expected = SOLID.evaluate(strain[None], SOLID.initial_state(1), 0.1)
    assert list(result) == list(writes)
    np.testing.assert_array_equal(result["Stress-normal"], expected.flux[0, :3])
    np.testing.assert_array_equal(result["Stress-shear"], expected.flux[0, 3:])
    np.testing.assert_array_equal(result["C"], expected.tangent[0, 0, :2])
    assert result["C44"] == expected.tangent[0, 3, 3] and isinstance(result["C44"], float)
    assert result["pressure"] == expected.flux[0, 0]
    assert simulation.get_global_id() == 7
    simulation.set_global_id(8)
    assert simulation.get_global_id() == 8


def test_implicit_iterations_go_back_to_the_checkpoint():
    hints = []

    class Recording(StandardLinearSolid):
        def evaluate(self, gradient, state, dt, hint=None):
            hints.append(hint)
            return super().evaluate(gradient, state, dt, hint)

    closure = Recording(1.0, 2.0, branch_mu=0.7, branch_lmbda=0.3, relaxation_time=0.4, dim=3)
    simulation = micro_simulation(closure, reads=READS, writes=WRITES)(0)
    strain, state = np.array([0.01, 0.02, -0.01, 0.005, 0.0, 0.01]), SOLID.initial_state(1)
    for window in (1.0, 2.0):
        checkpoint = simulation.get_state()
        for iterate in (0.3, 1.0):
            simulation.set_state(pickle.loads(pickle.dumps(checkpoint)))
            result = simulation.solve(data(iterate * window * strain), 0.1)
        expected = SOLID.evaluate(window * strain[None], state, 0.1)
        np.testing.assert_array_equal(result["Stress-normal"], expected.flux[0, :3])
        state = expected.state
        np.testing.assert_array_equal(simulation.get_state(), state[0])
    assert [hint is None for hint in hints] == [True, False, True, False]


def test_initialize_gives_the_reference_and_keeps_the_state():
    law = NeoHookean(1.0, 2.0)
    reads, writes = {"F": list(law.spec.gradient)}, {"P": list(law.spec.flux)}
    simulation = micro_simulation(law, reads=reads, writes=writes)(0)
    np.testing.assert_allclose(simulation.initialize()["P"], 0.0, atol=1e-15)
    assert simulation.get_state() is None
    simulation.set_state(None)
    viscous = micro_simulation(SOLID, reads=READS, writes=WRITES)(0)
    viscous.initialize()
    assert not viscous.get_state().any()


def test_a_failed_point_raises_and_keeps_its_state():
    simulation = micro_simulation(SOLID, reads=READS, writes=WRITES)(3)
    simulation.solve(data(np.full(6, 0.01)), 0.1)
    before = simulation.get_state()
    with pytest.raises(ClosureError, match=r"micro simulation 3, ε11, .* = \(nan, .*not admissible"):
        simulation.solve(data(np.full(6, np.nan)), 0.1)
    np.testing.assert_array_equal(simulation.get_state(), before)


def test_output_is_the_callers():
    seen = []
    kind: Any = micro_simulation(SOLID, reads=READS, writes=WRITES, output=lambda s: seen.append(s.response.flux))
    simulation = kind(0)
    simulation.solve(data(np.full(6, 0.01)), 0.1)
    simulation.output()
    assert seen[0].shape == (1, 6)


def test_wrong_names_are_refused():
    for reads, writes, message in (
        ({"F": ["ε11", "ε12"]}, WRITES, r"reads\['F'\] has \['ε12'\]"),
        (READS | {"again": "ε11"}, WRITES, "must have each of the components ε11, .* once"),
        ({"Strain-normal": READS["Strain-normal"]}, WRITES, "must have each of the components"),
        (READS, {"C": ("ε11", "σ11")}, r"writes\['C'\] has \[\('ε11', 'σ11'\)\]"),
    ):
        with pytest.raises(ContractError, match=message):
            micro_simulation(SOLID, reads=reads, writes=writes)
    simulation = micro_simulation(SOLID, reads=READS, writes=WRITES)(0)
    with pytest.raises(ContractError, match="macro data has no 'Strain-shear', only"):
        simulation.solve({"Strain-normal": np.zeros(3)}, 0.1)
    with pytest.raises(ContractError, match=r"'Strain-shear' in the macro data must have 3 values, got shape \(2,\)"):
        simulation.solve({"Strain-normal": np.zeros(3), "Strain-shear": np.zeros(2)}, 0.1)
    with pytest.raises(ContractError, match="keeps 6 numbers per point"):
        simulation.set_state(None)


# ---- a micro simulation as closure -------------------------------------------------------------------------------


class Viscous:
    """A standard linear solid in one dimension with a cubic spring, as somebody writes it for the Micro Manager."""

    made = 0

    def __init__(self, sim_id):
        self.alpha, self.solves = 0.0, 0
        Viscous.made += 1

    def solve(self, macro_data, dt):
        strain = macro_data["strain"]
        assert isinstance(strain, np.float64)  # as the Micro Manager gives it
        if strain > 1.0:
            raise RuntimeError("mesh is distorted")
        ratio = dt / 0.4
        self.alpha = (self.alpha + ratio * strain) / (1.0 + ratio)
        self.solves += 1
        tangent = 3.0 + 6.0 * strain**2 + 2.0 / (1.0 + ratio)
        stress = 3.0 * strain + 2.0 * strain**3 + 2.0 * (strain - self.alpha)
        return {"stress": stress, "stiffness": tangent, "not declared": "anything"}

    def get_state(self):
        return {"alpha": self.alpha, "counts": [self.solves]}

    def set_state(self, state):
        self.alpha, (self.solves,) = state["alpha"], state["counts"]


BAR = ClosureSpec(("ε",), ("σ",), (0.0,), history=True, symmetric=True)


@pytest.mark.parametrize("declared", [True, False])
def test_a_micro_simulation_conforms(declared):
    writes = {"stress": "σ"} | ({"stiffness": ("σ", "ε")} if declared else {})
    closure = MicroSimulationClosure(Viscous, BAR, reads={"strain": "ε"}, writes=writes)
    assert closure.spec.state_size == 2
    assert_conforms(closure, tolerance=1e-12, dt=0.1)


def test_differences_agree_with_the_declared_tangent():
    g = np.array([[0.1], [-0.2], [0.3]])
    kinds: list[dict[str, Any]] = [{"stress": "σ"}, {"stress": "σ", "stiffness": ("σ", "ε")}]
    closures = [MicroSimulationClosure(Viscous, BAR, reads={"strain": "ε"}, writes=writes) for writes in kinds]
    differences, declared = (c.evaluate(g, c.initial_state(3), 0.1) for c in closures)
    np.testing.assert_array_equal(differences.flux, declared.flux)
    np.testing.assert_array_equal(differences.state, declared.state)
    np.testing.assert_allclose(differences.tangent, declared.tangent, rtol=1e-9)
    np.testing.assert_array_equal(declared.state[:, 1], 1.0)  # one solve of each point, whatever came in between


def test_an_exception_is_the_failure_of_its_point():
    closure = MicroSimulationClosure(Viscous, BAR, reads={"strain": "ε"}, writes={"stress": "σ"})
    made, g = Viscous.made, np.array([[0.1], [1.2], [0.3], [np.nan]])
    state = closure.initial_state(4)
    response = closure.evaluate(g, state, 0.1)
    assert response.status.tolist() == [Status.OK, Status.FAILED, Status.OK, Status.INADMISSIBLE]
    assert Viscous.made == made + 1
    assert str(closure.last_error) == "mesh is distorted"
    np.testing.assert_array_equal(response.state[[1, 3]], state[[1, 3]])
    np.testing.assert_array_equal(response.flux[2], closure.evaluate(g[2:3], state[:1], 0.1).flux[0])
    assert np.isnan(response.flux[[1, 3]]).all()


def test_a_result_that_is_not_finite_is_a_failure():
    class Poisoned:
        def __init__(self, sim_id):
            pass

        def solve(self, macro_data, dt):
            return {"stress": 1.0 / macro_data["strain"] if macro_data["strain"] else np.inf, "stiffness": 1.0}

    spec = ClosureSpec(("ε",), ("σ",), (0.0,))
    writes = {"stress": "σ", "stiffness": ("σ", "ε")}
    closure = MicroSimulationClosure(Poisoned, spec, reads={"strain": "ε"}, writes=writes)
    response = closure.evaluate(np.array([[0.0], [1.0]]), None, 1.0)
    assert response.status.tolist() == [Status.FAILED, Status.OK] and response.state is None


@pytest.mark.parametrize("writes", [WRITES, WRITES | ALL_TANGENT], ids=["differences", "tangent"])
def test_there_and_back_is_the_closure(writes):
    closure = MicroSimulationClosure(
        micro_simulation(SOLID, reads=READS, writes=writes), SOLID.spec, reads=READS, writes=writes
    )
    assert closure.spec == SOLID.spec
    assert_conforms(closure, dt=0.1, samples=6)
    rng = np.random.default_rng(0)
    g, state = 0.05 * rng.normal(size=(5, 6)), 0.02 * rng.normal(size=(5, 6))
    ours, expected = closure.evaluate(g, state, 0.1), SOLID.evaluate(g, state, 0.1)
    np.testing.assert_allclose(ours.flux, expected.flux, rtol=0, atol=1e-15)
    np.testing.assert_allclose(ours.state, expected.state, rtol=0, atol=1e-15)
    np.testing.assert_allclose(ours.tangent, expected.tangent, rtol=0, atol=1e-12 if "C-σ11-ε11" in writes else 1e-9)


def test_finite_strain_there_and_back():
    law = NeoHookean(1.0, 2.0)
    reads, writes = {"F": list(tensor_components("F", 2))}, {"P": list(tensor_components("P", 2))}
    closure = MicroSimulationClosure(
        micro_simulation(law, reads=reads, writes=writes), law.spec, reads=reads, writes=writes
    )
    assert closure.spec == law.spec
    assert_conforms(closure)


@pytest.mark.mpi
def test_a_solver_of_this_project_runs_on_a_micro_simulation():
    law = NeoHookean(1.0, 2.0)
    reads, writes = {"F": list(law.spec.gradient)}, {"P": list(law.spec.flux)}
    micro = MicroSimulationClosure(
        micro_simulation(law, reads=reads, writes=writes), law.spec, reads=reads, writes=writes
    )
    domain = mesh.create_unit_square(MPI.COMM_WORLD, 3, 3)
    dx = ufl.Measure("dx", domain=domain, metadata={"quadrature_degree": 1})
    V = fem.functionspace(domain, ("P", 1, (2,)))
    ends = mesh.locate_entities_boundary(domain, 1, lambda x: np.isclose(x[1], 0.0) | np.isclose(x[1], 1.0))
    given = fem.Function(V)
    given.interpolate(lambda x: np.array([0.2 * x[1], 0.1 * x[0] * x[1]]))
    bcs = [fem.dirichletbc(given, fem.locate_dofs_topological(V, 1, ends))]
    solutions = []
    for name, closure in (("law_", law), ("micro_", micro)):
        u, v = fem.Function(V), ufl.TestFunction(V)
        P = ClosureFlux(ufl.Identity(2) + ufl.grad(u), closure, dx)
        residual = ufl.inner(P.value, ufl.grad(v)) * dx
        problem = MultiscaleProblem(
            residual, u, fluxes=[P], bcs=bcs, petsc_options_prefix=name, petsc_options={"snes_rtol": 1e-12}
        )
        problem.solve()
        solutions.append(u.x.array)
    np.testing.assert_allclose(solutions[1], solutions[0], rtol=0, atol=1e-12)


def test_half_of_a_symmetric_tangent_is_enough():
    law = LinearElastic(1.0, 2.0)
    flux, gradient = mandel_components("σ", 2), mandel_components("ε", 2)
    reads = {"strain": list(gradient)}
    half = {f"C{a}{b}": (flux[a], gradient[b]) for a in range(3) for b in range(a, 3)}
    writes = {"stress": list(flux), **half}
    simulation = micro_simulation(law, reads=reads, writes=writes)
    closure = MicroSimulationClosure(simulation, law.spec, reads=reads, writes=writes)
    assert_conforms(closure, tangent_tolerance=1e-9)
    del writes["C02"]
    with pytest.raises(ContractError, match=r"writes lacks \[\('σ11', '√2·ε12'\), \('√2·σ12', 'ε11'\)\]"):
        MicroSimulationClosure(simulation, law.spec, reads=reads, writes=writes)


def test_initial_data_are_given_to_a_simulation_that_takes_them():
    class Initialized(Viscous):
        def initialize(self, initial_data):
            assert initial_data == {"strain": 0.0}
            self.alpha = 0.25

    closure = MicroSimulationClosure(Initialized, BAR, reads={"strain": "ε"}, writes={"stress": "σ"})
    np.testing.assert_array_equal(closure.initial_state(2), [[0.25, 0.0], [0.25, 0.0]])


def test_wrong_simulations_are_refused():
    class NoState(Viscous):
        def get_state(self):
            return None

    class Growing(Viscous):
        def get_state(self):
            return [self.alpha] * (1 + self.solves)

        def set_state(self, state):
            self.alpha = state[0]

    class Objects(Viscous):
        def get_state(self):
            return {"mesh": object()}

    reads = {"strain": "ε"}
    for kind, writes, message in (
        (NoState, {"stress": "σ"}, "get_state returns nothing before the first solve"),
        (Objects, {"stress": "σ"}, "has a object in it: let get_state return None, real numbers"),
        (Viscous, {"stiffness": ("σ", "ε")}, r"writes lacks \['σ'\]"),
    ):
        with pytest.raises(ContractError, match=message):
            MicroSimulationClosure(kind, BAR, reads=reads, writes=writes)
    with pytest.raises(ContractError, match="step must be positive"):
        MicroSimulationClosure(Viscous, BAR, reads=reads, writes={"stress": "σ"}, step=0.0)
    g, state = np.array([[0.1]]), np.zeros((1, 1))
    with pytest.raises(ContractError, match="changed its structure from list of shape .1,. to list of shape .2,."):
        MicroSimulationClosure(Growing, BAR, reads=reads, writes={"stress": "σ"}).evaluate(g, state, 0.1)
    misnamed = MicroSimulationClosure(Viscous, BAR, reads=reads, writes={"Stress": "σ"})
    with pytest.raises(ContractError, match="result of the micro simulation has no 'Stress', only"):
        misnamed.evaluate(g, np.zeros((1, 2)), 0.1)


def test_states_keep_structure_and_types():
    state = {
        "field": np.arange(6, dtype=np.float32).reshape(2, 3),
        "steps": [3, np.int64(4), True],
        "pair": (1.5, np.float64(2.5)),
        "nothing": None,
        "flags": np.array([True, False]),
    }
    layout = StateLayout(state)
    assert layout.size == 13
    back = layout.unpack(layout.pack(state))
    assert list(back) == list(state) and back["nothing"] is None
    np.testing.assert_array_equal(back["field"], state["field"])
    assert back["field"].dtype == np.float32 and back["flags"].dtype == bool
    assert back["steps"] == [3, 4, True] and [type(x) for x in back["steps"]] == [int, np.int64, bool]
    assert back["pair"] == (1.5, 2.5) and isinstance(back["pair"], tuple)
    assert StateLayout(None).size == 0 and StateLayout(None).unpack(np.empty(0)) is None


# ---- in the Micro Manager ----------------------------------------------------------------------------------------

WINDOWS, DT = 3, 0.1
POINTS = np.array([[0.1, 0.1, 0.1], [0.9, 0.1, 0.1], [0.9, 0.9, 0.1], [0.1, 0.9, 0.9]])
STRAINS = 0.02 * np.random.default_rng(2).normal(size=(4, 6))


class Participant:
    """What the Micro Manager uses of ``precice.Participant``: a macro side of two implicit iterations a window.

    It offers half of the window's strains in the first iteration and all of them in the second.
    """

    last: "Participant"

    def __init__(self, name, config, rank, size):
        self.iteration, self.written = 0, []
        Participant.last = self

    def get_mesh_dimensions(self, mesh):
        return 3

    def set_mesh_access_region(self, mesh, bounds):
        pass

    def initialize(self):
        pass

    def get_mesh_vertex_ids_and_coordinates(self, mesh):
        return np.arange(4), POINTS

    def strains(self):
        window, second = divmod(self.iteration, 2)
        return (1.0 if second else 0.5) * (window + 1) * STRAINS

    def read_data(self, mesh, name, ids, time):
        return self.strains()[ids, {"Strain-normal": slice(0, 3), "Strain-shear": slice(3, 6)}[name]]

    def write_data(self, mesh, name, ids, values):
        self.written.append((self.iteration, name, np.array(values)[np.argsort(ids)]))

    def advance(self, dt):
        self.iteration += 1

    def is_coupling_ongoing(self):
        return self.iteration < 2 * WINDOWS

    def is_time_window_complete(self):
        return self.iteration % 2 == 0

    def requires_writing_checkpoint(self):
        return self.iteration % 2 == 0

    def requires_reading_checkpoint(self):
        return self.iteration % 2 == 1

    def get_max_time_step_size(self):
        return DT

    def start_profiling_section(self, name):
        pass

    def stop_last_profiling_section(self):
        pass

    def finalize(self):
        pass


MODULE = """
from solver_adapters.precice_micro import micro_simulation
from tests.test_precice_micro import READS, SOLID, WRITES, record
MicroSimulation = micro_simulation(SOLID, reads=READS, writes=WRITES, output=record)
"""

outputs: list[int] = []


def record(simulation):
    outputs.append(simulation.get_global_id())


@pytest.fixture
def micro_manager(monkeypatch):
    """The Micro Manager, over a stand-in for preCICE."""
    library: Any = ModuleType("precice")
    library.Participant = Participant
    monkeypatch.setitem(sys.modules, "precice", library)
    yield pytest.importorskip("micro_manager", reason="micro-manager-precice is not installed", exc_type=ImportError)
    for name in [name for name in sys.modules if name.split(".")[0] == "micro_manager"]:
        del sys.modules[name]


@pytest.fixture
def configuration(tmp_path, monkeypatch):
    (tmp_path / "closure_of_a_solid.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = {
        "participant_name": "Micro-Manager",
        "precice_config_file_path": "precice-config.xml",
        "interfaces": [
            {
                "mesh_name": "Macro-Mesh",
                "read_data": [{"name": name} for name in READS],
                "write_data": [{"name": name} for name in WRITES],
            }
        ],
        "micro_manager": {
            "micro_file_names": ["closure_of_a_solid"],
            "simulation_params": {"micro_dt": DT, "macro_domain_bounds": [0.0, 1.0] * 3},
        },
    }
    path = tmp_path / "micro-manager-config.json"
    path.write_text(json.dumps(settings))
    yield str(path)
    sys.modules.pop("closure_of_a_solid", None)


@pytest.mark.skipif(MPI.COMM_WORLD.size > 1, reason="the stand-in macro side is for one rank")
@pytest.mark.filterwarnings("error::DeprecationWarning:micro_manager")
def test_the_micro_manager_solves_with_a_closure(micro_manager, configuration, tmp_path):
    outputs.clear()
    manager = micro_manager.MicroManagerCoupling(configuration, log_file=str(tmp_path / "log"))
    manager.initialize()
    manager.solve()
    macro, state = Participant.last, SOLID.initial_state(4)
    assert issubclass(sys.modules["closure_of_a_solid"].MicroSimulation, micro_manager.MicroSimulationInterface)
    written = {(iteration, name): values for iteration, name, values in macro.written}
    assert len(written) == len(macro.written) == 2 * 2 * WINDOWS
    for window in range(WINDOWS):
        for second in (False, True):
            strains = (1.0 if second else 0.5) * (window + 1) * STRAINS
            expected = SOLID.evaluate(strains, state, DT)
            iteration = 2 * window + second
            np.testing.assert_allclose(written[iteration, "Stress-normal"], expected.flux[:, :3], rtol=0, atol=1e-15)
            np.testing.assert_allclose(written[iteration, "Stress-shear"], expected.flux[:, 3:], rtol=0, atol=1e-15)
        state = expected.state
    assert sorted(outputs) == sorted([0, 1, 2, 3] * WINDOWS)
