"""Whole cases from files, against closed forms and the demo's numbers, on any number of ranks."""

import csv
import json
import os
import resource
import signal
import sys
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from mpi4py import MPI

import numpy as np
import pytest
from typer.testing import CliRunner

from coupling.closed_forms import isotropic_stiffness
from coupling.command_line import app
from coupling.errors import CaseError, TwoscaleError
from coupling.interrupts import Interrupts
from solver_adapters.case.building import prepare
from solver_adapters.case.outputs import OutputError
from solver_adapters.case.reading import CaseFile
from solver_adapters.case.running import step_case
from solver_adapters.case.summary import summary, write_page, write_summary
from solver_adapters.rve.choice import chosen_rve
from surrogates import box_design, fit_polynomial_flux, sample, save_model

pytestmark = pytest.mark.mpi

WORLD = MPI.COMM_WORLD
EXAMPLE = resources.files("solver_adapters.case").joinpath("example.toml").read_text(encoding="utf-8")
COARSE = EXAMPLE.replace("size = 0.106", "size = 0.25").replace("count = 8", "count = 3")


@pytest.fixture
def folder(tmp_path):
    """One folder for all ranks."""
    return Path(WORLD.bcast(str(tmp_path)))


def written(folder, text):
    """The file of a case, in its folder."""
    if WORLD.rank == 0:
        (folder / "case.toml").write_text(text, encoding="utf-8")
    WORLD.barrier()
    return folder / "case.toml"


def run(folder, text, on_step=lambda record: None):
    """The result of a case, its output in the folder of its file."""
    with Interrupts() as interrupts:
        parts = prepare(CaseFile(written(folder, text)), WORLD)
        return step_case(parts, WORLD, folder, interrupts, on_step)


def test_the_example_is_the_demo(folder):
    result = run(folder, EXAMPLE)
    assert result.error is None
    assert result.rows[-1]["tip_y"] == pytest.approx(16.365857, abs=5e-7)
    assert [result.rows[-1][f"clamped_force_{axis}"] for axis in "xy"] == pytest.approx([0.0, -4.0], abs=1e-9)
    assert [record.iterations for record in result.records] == [5, 4, 4, 4, 3, 3, 3, 3]


def test_what_is_wrong_on_one_rank_ends_all_of_them(folder):
    file = CaseFile(written(folder, COARSE))
    with file.at("mesh"):
        if WORLD.rank == WORLD.size - 1:
            raise OSError("the disk of this node is gone")
    with pytest.raises(CaseError, match="mesh: the disk of this node is gone"):
        file.check(WORLD)


def test_a_folder_that_cannot_be_made_is_told_on_any_number_of_ranks(folder):
    case = written(folder, COARSE)
    done = CliRunner().invoke(app(["run"]), ["run", str(case), "--out", str(case / "results")])
    assert done.exit_code == 1
    told = "".join(done.stderr.splitlines())
    assert ("the folder for results cannot be made" in told) == (WORLD.rank == 0)


def test_what_is_kept(folder):
    result = run(folder, COARSE.replace('fields = "vtu"', 'fields = "vtx"'))
    values = summary(result)
    if WORLD.rank == 0:
        write_summary(values, folder)
        write_page(values, result.rows, folder)
        with open(folder / "history.csv", newline="", encoding="utf-8") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        assert rows == result.rows
        assert [row["load"] for row in rows] == pytest.approx([0, 1 / 3, 2 / 3, 1])
        kept = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        assert (kept["completed"], kept["points"], kept["final"]) == (True, 108, rows[-1])
        assert kept["case"]["rve"]["materials"]["2"] == {"law": "neo-hookean", "mu": 20.0, "lambda": 40.0}
        assert "tip_y" in (folder / "report.html").read_text(encoding="utf-8")
        assert {"displacement.bp", "stress.bp", "history.png"} <= {path.name for path in folder.iterdir()}


def test_a_polynomial_replaces_the_rve(folder):
    box = "lower = [0.80, 0.93, -0.10], upper = [1.12, 1.12, 0.25], samples = 120"
    fit = f'mode = "replace"\nfit = {{ degree = 5, {box} }}'
    exact = run(folder, COARSE).rows[-1]["tip_y"]
    result = run(folder, COARSE.replace('mode = "off"', fit).replace('fields = "vtu"', 'fields = "xdmf"'))
    assert result.rows[-1]["tip_y"] == pytest.approx(exact, rel=1e-3)
    assert result.ledger.counts.get("rve/points", 0) < 0.1 * result.ledger.counts["closure/points"]
    assert (folder / "samples.safetensors").is_file() and (folder / "fields.xdmf").is_file()
    alone = 'mode = "alone"\nfit = { degree = 5, data = "samples.safetensors" }'
    without = COARSE[: COARSE.index("[rve]")] + COARSE[COARSE.index("[closure]") :]
    assert run(folder, without.replace('mode = "off"', alone)).rows[-1]["tip_y"] == pytest.approx(
        result.rows[-1]["tip_y"], rel=1e-9
    )


LAMINATE = """
[macro]
kinematics = "{kinematics}"
degree = {degree}
{macro}
[rve]
cell = {{ kind = "laminate", fraction = 0.25, size = 0.5, dim = {dim} }}
materials.1 = {first}
materials.2 = {second}
"""


def test_a_bar_of_laminates_in_3d(folder):
    """Uniaxial stress: force = area · extension/length / (C⁻¹)₁₁, C of the laminate in closed form."""
    text = LAMINATE.format(
        kinematics="small-strain",
        degree=1,
        macro="",
        dim=3,
        first='{ law = "isotropic", mu = 1.0, lambda = 1.5 }',
        second='{ law = "isotropic", young = 25.0, poisson = 0.25 }',
    )
    text += """
[mesh]
kind = "box"
cells = [2, 1, 1]
upper = [2.0, 1.0, 0.5]
shape = "hexahedron"
[[boundary]]
where = "left"
name = "held"
value = { x = 0.0 }
[[boundary]]
where = { y = 0.0 }
value = { y = 0.0 }
[[boundary]]
where = { x = [0.0, 2.0], z = 0.0 }
value = { z = 0.0 }
[[boundary]]
where = "right"
value = { x = 0.02 }
[steps]
count = 1
[[output.probes]]
name = "corner"
point = [2.0, 1.0, 0.5]
"""
    C = laminate_stiffness(isotropic_stiffness(1.0, 1.5, 3), isotropic_stiffness(10.0, 10.0, 3), 0.25)
    S = np.linalg.inv(C)
    final = run(folder, text).rows[-1]
    stress = 0.01 / S[0, 0]
    assert final["held_force_x"] == pytest.approx(-0.5 * stress, rel=1e-6)
    assert final["corner_y"] == pytest.approx(stress * S[1, 0], rel=1e-6)
    assert final["corner_z"] == pytest.approx(0.5 * stress * S[2, 0], rel=1e-6)


def laminate_stiffness(first, second, fraction):
    """Effective stiffness of layers with normal e₁ (Mandel): stresses 11, 13, 12 and strains 22, 33, 23 are even."""
    normal, plane = [0, 4, 5], [1, 2, 3]
    parts = [(1 - fraction, first), (fraction, second)]
    nn, pn = np.ix_(normal, normal), np.ix_(plane, normal)
    compliance = sum(c * np.linalg.inv(C[nn]) for c, C in parts)
    A = np.linalg.inv(compliance)
    coupling = sum(c * np.linalg.inv(C[nn]) @ C[pn].T for c, C in parts)
    rest = sum(c * (C[np.ix_(plane, plane)] - C[pn] @ np.linalg.inv(C[nn]) @ C[pn].T) for c, C in parts)
    whole = np.zeros((6, 6))
    whole[nn], whole[np.ix_(normal, plane)] = A, A @ coupling
    whole[pn] = whole[np.ix_(normal, plane)].T
    whole[np.ix_(plane, plane)] = rest + coupling.T @ A @ coupling
    return whole


WALL = """
[mesh]
kind = "rectangle"
cells = [8, 1]
shape = "quadrilateral"
[[boundary]]
where = "left"
name = "cold"
value = 0.0
[[boundary]]
where = "right"
name = "hot"
value = 1.0
[steps]
count = 2
[output]
fields = "none"
probes = [ { name = "middle", point = [0.5, 0.5] } ]
"""


def test_conduction_through_a_wall_of_laminates(folder):
    layers = [f'{{ law = "conduction", conductivity = {k} }}' for k in (1.0, 5.0)]
    text = LAMINATE.format(kinematics="conduction", degree=1, macro="", dim=2, first=layers[0], second=layers[1])
    final = run(folder, text + WALL).rows[-1]
    harmonic = 1 / (0.75 / 1.0 + 0.25 / 5.0)
    assert (final["hot_inflow"], final["cold_inflow"]) == pytest.approx((harmonic, -harmonic), rel=1e-8)
    assert final["middle"] == pytest.approx(0.5)


def test_conductivity_that_depends_on_the_field(folder):
    """κ = k(1 + θ)(harmonic mean of k): the flow is ∫ κ dθ, and θ + θ²/2 is linear (Kirchhoff's transformation)."""
    layers = [f'{{ law = "field-conduction", conductivity = [{k}, {k}] }}' for k in (1.0, 5.0)]
    text = LAMINATE.format(kinematics="field-conduction", degree=2, macro="", dim=2, first=layers[0], second=layers[1])
    final = run(folder, text + WALL).rows[-1]
    harmonic = 1 / (0.75 / 1.0 + 0.25 / 5.0)
    assert final["hot_inflow"] == pytest.approx(1.5 * harmonic, rel=1e-5)
    assert final["middle"] == pytest.approx(np.sqrt(1 + 1.5) - 1, rel=1e-5)


def test_exact_mode_gives_the_answer_of_the_rve(folder):
    """Stretches in a case file: the displacements of mode = "off", with sweeps in place of full solves."""
    box = "lower = [0.75, 0.75, -0.35], upper = [1.25, 1.25, 0.35], samples = 100"
    exact = COARSE.replace('mode = "off"', f'mode = "exact"\nfit = {{ degree = 5, {box} }}')
    ours, classical = run(folder, exact), run(folder, COARSE)
    assert ours.rows[-1]["tip_y"] == pytest.approx(classical.rows[-1]["tip_y"], rel=1e-8)
    assert WORLD.bcast(ours.ledger.counts.get("macro/exact sweeps", 0)) > 0


def test_a_polynomial_flux_replaces_conduction(folder):
    """κ(θ) is linear and the flux of degree 2: the polynomial is exact, and no RVE is solved."""
    layers = [f'{{ law = "field-conduction", conductivity = [{k}, {k}] }}' for k in (1.0, 5.0)]
    text = LAMINATE.format(kinematics="field-conduction", degree=2, macro="", dim=2, first=layers[0], second=layers[1])
    fit = "fit = { degree = 2, lower = [-0.1, -0.1, -1.0], upper = [1.1, 3.0, 1.0], samples = 40 }\n"
    exact = run(folder, text + WALL).rows[-1]
    result = run(folder, text + WALL + '[closure]\nmode = "replace"\n' + fit)
    assert result.rows[-1]["hot_inflow"] == pytest.approx(exact["hot_inflow"], rel=1e-8)
    assert result.ledger.counts.get("rve/points", 0) == 0


def test_a_folder_of_a_polynomial_flux_replaces_conduction(folder):
    """Its reference value is its own: the RVE beside it takes the same, whatever the initial value."""
    layers = [f'{{ law = "field-conduction", conductivity = [{k}, {k}] }}' for k in (1.0, 5.0)]
    text = LAMINATE.format(kinematics="field-conduction", degree=2, macro="", dim=2, first=layers[0], second=layers[1])
    law = chosen_rve(
        "laminate", [f"{tag}=field-conduction:{k},{k}" for tag, k in ((1, 1), (2, 5))], fraction=0.25, field=0.5
    )
    design = box_design((-0.1, -0.1, -1.0), (1.1, 3.0, 1.0), 40, seed=0)
    model = fit_polynomial_flux(sample(law, design, comm=WORLD, progress=False), degree=2)
    if WORLD.rank == 0:
        save_model(model, folder / "model")
    exact = run(folder, text + WALL).rows[-1]
    for section in ('mode = "replace"', 'mode = "alone"'):
        result = run(folder, text + WALL + f'[closure]\n{section}\nmodel = "model"\n')
        assert result.rows[-1]["hot_inflow"] == pytest.approx(exact["hot_inflow"], rel=1e-8)
        assert result.ledger is None or result.ledger.counts.get("rve/points", 0) == 0


def test_initial_values_sources_and_inflow(folder):
    """κ θ'' + s = 0 with θ(0) = 3 held, θ'(1) κ = h: θ = 3 + (h + s)x/κ − s x²/2κ."""
    layers = ['{ law = "conduction", conductivity = 2.0 }'] * 2
    macro = "initial = 3.0\nbody = 4.0"
    text = LAMINATE.format(kinematics="conduction", degree=2, macro=macro, dim=2, first=layers[0], second=layers[1])
    wall = WALL.replace("value = 0.0", "value = 3.0").replace(
        '[[boundary]]\nwhere = "right"\nname = "hot"', '[[load]]\nwhere = "right"'
    )
    final = run(folder, text + wall).rows[-1]
    assert final["middle"] == pytest.approx(3 + (1 + 4) * 0.5 / 2 - 4 * 0.25 / 4)
    assert final["cold_inflow"] == pytest.approx(-5.0)


def test_overlapping_loads_add_up(folder):
    loads = '[[load]]\nwhere = "boundary"\nvalue = { x = 0.01 }\n[[load]]\nwhere = { x = 48.0, y = [43.9, 60.0] }\n'
    text = COARSE.replace("[[load]]\n", loads + "value = { y = 0.1 }\n[[load]]\n").replace("count = 3", "count = 1")
    final = run(folder, text).rows[-1]
    perimeter = 44 + 16 + np.hypot(48, 44) + np.hypot(48, 16)
    assert final["clamped_force_x"] == pytest.approx(-0.01 * perimeter, rel=1e-8)
    assert final["clamped_force_y"] == pytest.approx(-(0.25 + 0.1) * 16, rel=1e-8)


def test_mesh_file_with_named_and_numbered_facets(folder):
    gmsh = pytest.importorskip("gmsh")
    if WORLD.rank == 0:
        write_panel(gmsh, folder / "panel.msh")
    WORLD.barrier()
    mesh = 'kind = "file"\npath = "panel.msh"'
    text = COARSE.replace('kind = "cook"', mesh).replace("cells = [6, 3]", "")
    text = text.replace('where = "left"', 'tag = "wall"').replace('where = "right"', "tag = 9")
    assert run(folder, text).rows[-1]["clamped_force_y"] == pytest.approx(-4.0, rel=1e-8)


def write_panel(gmsh, file):
    gmsh.initialize()
    gmsh.option.setNumber("General.Terminal", 0)
    geo = gmsh.model.geo
    corners = [geo.addPoint(x, y, 0, 12) for x, y in ((0, 0), (48, 44), (48, 60), (0, 44))]
    lines = [geo.addLine(a, b) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
    surface = geo.addPlaneSurface([geo.addCurveLoop(lines)])
    geo.synchronize()
    gmsh.model.addPhysicalGroup(1, [lines[3]], 4, name="wall")
    gmsh.model.addPhysicalGroup(1, [lines[1]], 9)
    gmsh.model.addPhysicalGroup(2, [surface], 1)
    gmsh.model.mesh.generate(2)
    gmsh.write(str(file))
    gmsh.finalize()


PLASTIC = """
[macro]
kinematics = "small-strain"
[mesh]
kind = "rectangle"
cells = [2, 2]
[closure]
fine = "case_laws:plastic"
[[boundary]]
where = "left"
name = "held"
value = { x = 0.0 }
[[boundary]]
where = { x = 0.0, y = 0.0 }
value = { y = 0.0 }
[[boundary]]
where = "right"
value = { x = 0.05 }
[output]
fields = "none"
"""


def write_laws(folder):
    """A module of closures beside the case file."""
    if WORLD.rank == 0:
        (folder / "case_laws.py").write_text(
            "import os, signal\n"
            "from mpi4py import MPI\n"
            "from coupling.closed_forms import NeoHookean, VonMisesPlasticity\n"
            "plastic = VonMisesPlasticity(1.0, 1.5, 0.01)\n"
            "class Interrupted(NeoHookean):\n"
            "    calls = 0\n"
            "    def evaluate(self, *arguments, **options):\n"
            "        Interrupted.calls += 1\n"
            "        if Interrupted.calls == 12 and MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1:\n"
            "            os.kill(os.getpid(), signal.SIGINT)\n"
            "        return super().evaluate(*arguments, **options)\n"
            "def interrupted(): return Interrupted(1.0, 2.0)\n",
            encoding="utf-8",
        )
    WORLD.barrier()


@pytest.fixture
def laws(folder, monkeypatch):
    """The folder with a module of closures, which is forgotten afterwards."""
    write_laws(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "case_laws", raising=False)
    return folder


def test_closure_of_ones_own_with_history(laws):
    """A perfectly plastic bar in plane strain yields at 2/√3 of the yield stress and keeps that force."""
    rows = run(laws, PLASTIC).rows
    assert [row["held_force_x"] for row in rows[-2:]] == pytest.approx([-2 / np.sqrt(3) * 0.01] * 2, rel=1e-6)


def test_rves_with_history(laws):
    """The same bar made of RVEs; one that creeps, whose overstress depends on how long the load takes."""
    exact = run(laws, PLASTIC).rows
    cell = 'cell = {{ kind = "laminate", size = 0.5 }}\ndegree = 1\nmaterials.1 = {0}\nmaterials.2 = {0}\n'
    moduli = "mu = 1.0, lambda = 1.5"
    law = f'{{ law = "von-mises", {moduli}, yield_stress = 0.01 }}'
    text = PLASTIC.replace('[closure]\nfine = "case_laws:plastic"\n', f"[rve]\n{cell.format(law)}")
    for ours, theirs in zip(run(laws, text).rows, exact, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-10)
    law = (
        f'{{ law = "generalised-maxwell", {moduli}, branches = [{{ mu = 1.0, lambda = 1.5, relaxation_time = 0.1 }}] }}'
    )
    text = PLASTIC.replace('[closure]\nfine = "case_laws:plastic"\n', f"[rve]\n{cell.format(law)}")
    forces = [
        run(laws, text.replace("[output]", f"[steps]\ncount = 1\nduration = {time}\n[output]")).rows[-1]["held_force_x"]
        for time in (1e-9, 0.1, 1e9)
    ]
    modulus = 4 * 1.0 * 2.5 / 3.5  # plane strain, free sides: 4μ(λ + μ)/(λ + 2μ)
    assert forces == pytest.approx([-0.05 * modulus * share for share in (2.0, 1.5, 1.0)], rel=1e-6)


def test_ctrl_c_inside_a_closure_of_one_rank_ends_all_and_keeps_the_steps_until_then(laws):
    own = COARSE[: COARSE.index("[rve]")] + '[closure]\nfine = "case_laws:interrupted"\n'
    result = run(laws, own + COARSE[COARSE.index("[[boundary]]") :])
    assert result.interrupted and isinstance(result.error, TwoscaleError)
    assert 2 <= len(result.rows) < 4
    assert result.rows[-1]["load"] == result.records[-1].load
    assert result.problem.parts.u.x.array.size and summary(result)["ended"] == "interrupted"


def test_ctrl_c_between_two_steps(folder):
    def on_step(record):
        if WORLD.rank == WORLD.size - 1 and record.load > 0.5:
            os.kill(os.getpid(), signal.SIGINT)

    result = run(folder, COARSE, on_step)
    assert result.interrupted
    assert [row["load"] for row in result.rows] == pytest.approx([0, 1 / 3, 2 / 3])


def test_a_step_that_fails_for_good_keeps_the_steps_before(folder):
    tight = "[steps]\nmin_step = 0.2"
    result = run(folder, COARSE.replace("[steps]", tight).replace("y = 0.25", "x = -40.0"))
    assert result.error is not None and not result.interrupted
    assert "did not converge" in str(result.error)
    assert result.rows[0]["load"] == 0.0


@pytest.mark.timeout(90)
@pytest.mark.parametrize("fields", ["vtu", "xdmf", "none"])
def test_ranks_without_cells_write_nothing_and_stop_nobody(folder, fields):
    text = COARSE.replace("cells = [6, 3]", "cells = [1, 1]").replace('fields = "vtu"', f'fields = "{fields}"')
    result = run(folder, text.replace("count = 3", "count = 1").replace("y = 0.25", "y = 0.01"))
    assert result.error is None and result.rows[-1]["load"] == 1.0


@contextmanager
def full_disk():
    """No file of this process can grow; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("full", [0, WORLD.size - 1], ids=["first rank", "last rank"])
@pytest.mark.parametrize("fields", ["vtu", "xdmf", "none"])
def test_a_disk_that_is_full_on_one_rank_ends_all_and_keeps_what_was_written(folder, fields, full):
    with full_disk() as fill:
        result = run(
            folder,
            COARSE.replace('fields = "vtu"', f'fields = "{fields}"'),
            lambda record: fill() if WORLD.rank == full else None,
        )
    if fields == "none" and full:
        assert result.error is None  # that rank writes nothing
        return
    assert isinstance(result.error, OutputError if WORLD.rank == full else TwoscaleError)
    assert f"results cannot be written to {folder}" in str(result.error)
    assert not result.interrupted and result.rows[1]["load"] == pytest.approx(1 / 3)
    values = summary(result)
    assert not values["completed"] and "results cannot be written" in values["ended"]
    if fields == "xdmf" and WORLD.rank == 0:
        kept = (folder / "fields.xdmf").read_text(encoding="utf-8")
        assert kept.rstrip().endswith("</Xdmf>") and kept.count('Time Value="0.333') == 2  # displacement and stress
