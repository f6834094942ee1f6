"""The commands as they are typed: answers, JSON, exit codes, and errors of one sentence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from mpi4py import MPI

import numpy as np
import pytest
from typer.testing import CliRunner

from coupling.closed_forms import StretchNeoHookean, VonMisesPlasticity, isotropic_stiffness
from coupling.command_line import COMMANDS, app
from coupling.diagnosis import findings
from coupling.environment import Package, blas_of
from surrogates import Dataset, load_model
from surrogates.loading import load_folder

ROOT = Path(__file__).parents[1]
BOX = ("--lower", "0.8,0.8,-0.2", "--upper", "1.2,1.2,0.2")
LAW = StretchNeoHookean(1.0, 1.5)
pytestmark = pytest.mark.skipif("OMPI_COMM_WORLD_SIZE" in os.environ, reason="starts processes of its own")


def call(*words):
    return CliRunner().invoke(app(words[:1] if words[0] in COMMANDS else COMMANDS), [str(word) for word in words])


def succeed(*words):
    result = call(*words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in words else result.stdout


def refuse(*words, code=1):
    result = call(*words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.replace("│", " ").split())


def law_samples(folder, name="data.safetensors", *, samples=120, seed=0):
    out = folder / name
    words = ("sample", "tests.test_command_line:LAW", *BOX, "--samples", samples, "--seed", seed, "--out", out)
    assert succeed(*words, "--json")["samples"] == samples
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return law_samples(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def polynomial(data):
    out = data.parent / "polynomial"
    succeed("train", data, "--out", out, "--family", "polynomial", "--degree", "6", "--json")
    return out


def test_help_lists_every_command():
    text = succeed("--help")
    assert [name for name in COMMANDS if f" {name} " not in text] == []
    assert "130 interrupted" in " ".join(text.split())


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "serve"])
def test_help_of_a_command_has_an_example_and_its_exit_codes(name):
    text = succeed(name, "--help")
    assert f"twoscale {name}" in text.partition("Example")[2]
    assert "Exit code" in text


def test_info_tells_versions_and_what_is_wrong():
    result = call("info", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == int(any(finding["wrong"] for finding in told["findings"])), result.output
    assert told["packages"]["numpy"]["version"] == np.__version__
    assert told["packages"]["numpy"]["threads"] >= 1


def package(name, version, error=None, **details):
    return Package(name, version, error, details)


@pytest.mark.parametrize(
    ("packages", "environment", "gpus", "wrong", "words"),
    [
        ([package("numpy", "2.0", files=["/usr/lib/blas/libblas.so.3.12"])], {}, [], True, "reference BLAS"),
        ([package("dolfinx", "0.8.0")], {}, [], True, "older than 0.9"),
        ([package("dolfinx", None)], {}, [], False, "dolfinx is not installed"),
        ([package("gmsh", None, "libGLU.so.1: cannot open")], {}, [], True, "cannot be imported: libGLU"),
        ([package("petsc4py", "3.22", scalar="complex128")], {}, [], True, "complex"),
        ([package("torch", "2.6", gpus=[])], {}, ["/dev/nvidia0"], True, "cannot use any"),
    ],
)
def test_findings(packages, environment, gpus, wrong, words):
    (found,) = findings(packages, {"OMP_NUM_THREADS": "1"} | environment, cores=4, gpus=gpus)
    assert found.wrong == wrong
    assert words in found.what
    assert found.mend


def test_a_sound_installation_has_no_findings():
    sound = [package("numpy", "2.0", files=["/x/libopenblas.so.0"], threads=1), package("dolfinx", "0.10.0")]
    assert list(findings(sound, {"OMP_NUM_THREADS": "1"}, cores=4, gpus=[])) == []
    (unpinned,) = findings(sound, {}, cores=4, gpus=[])
    assert "not pinned" in unpinned.what


def test_blas_is_told_by_files_then_by_the_build():
    assert blas_of(["/usr/lib/openblas-pthread/libblas.so.3", "/usr/lib/libc.so.6"]) == "OpenBLAS"
    assert blas_of(["/usr/lib/libc.so.6"], "- Build settings: BLAS_INFO=mkl, BUILD_TYPE=Release") == "MKL"
    assert blas_of(["/usr/lib/libc.so.6"]) is None


def test_info_works_without_dolfinx():
    program = "import sys; sys.modules['dolfinx'] = None; from coupling.command_line import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "info", "--json"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)["python"]


def test_rve_of_one_material_is_that_material():
    pytest.importorskip("dolfinx")
    same = ("--material", "1=neo-hookean:1,1.5", "--material", "2=neo-hookean:1,1.5")
    told = succeed("rve", "laminate", *same, "--size", "0.5", "--gradient", "1.1,0.2,0,0.95", "--json")
    F = np.array([[1.1, 0.2], [0.0, 0.95]])
    J = np.linalg.det(F)
    P = F - np.linalg.inv(F).T + 1.5 * np.log(J) * np.linalg.inv(F).T
    np.testing.assert_allclose(told["flux"], P.ravel(), rtol=1e-9)
    assert told["components"]["flux"] == ["P11", "P12", "P21", "P22"]
    np.testing.assert_allclose(np.diag(told["reference_tangent"])[[0, 3]], 3.5, rtol=1e-9)


def test_rve_reads_a_mesh_and_draws_it(tmp_path):
    pytest.importorskip("dolfinx")
    meshio = pytest.importorskip("meshio")
    points = [[x, y] for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)]
    quads = [[0, 1, 4, 3], [1, 2, 5, 4], [3, 4, 7, 6], [4, 5, 8, 7]]
    file = tmp_path / "cell.vtu"
    meshio.write(file, meshio.Mesh(points, {"quad": quads}, cell_data={"phase": [np.array([1, 2, 1, 2])]}))
    layers = ("--material", "1=neo-hookean:1,1.5", "--material", "2=neo-hookean:10,15")
    told = succeed("rve", file, *layers, "--picture", tmp_path / "cell.png", "--json")
    moduli = np.array([3.5, 35.0])
    assert told["reference_tangent"][0][0] == pytest.approx(1 / np.mean(1 / moduli))
    assert (tmp_path / "cell.png").read_bytes().startswith(b"\x89PNG")
    assert "phase" in refuse("rve", file, *layers, "--tag-name", "phases")
    assert "material" in refuse("rve", file)
    assert "unknown" not in succeed("rve", file, *layers)


def test_rve_in_three_dimensions(tmp_path):
    pytest.importorskip("dolfinx")
    meshio = pytest.importorskip("meshio")
    corners = [[x, y, z] for x, y, z in np.ndindex(3, 3, 3)]
    around = [(0, 0), (1, 0), (1, 1), (0, 1)]
    cells = [
        [corners.index([x + a, y + b, z + c]) for c in (0, 1) for a, b in around] for x, y, z in np.ndindex(2, 2, 2)
    ]
    phase = [np.array([1 + x for x, _, _ in np.ndindex(2, 2, 2)])]
    file = tmp_path / "cube.vtu"
    meshio.write(file, meshio.Mesh(0.5 * np.array(corners), {"hexahedron": cells}, cell_data={"phase": phase}))
    words = ("rve", file, "--degree", 1, "--material", "1=neo-hookean:1,1.5", "--material", "2=neo-hookean:10,15")
    tangent = np.array(succeed(*words, "--json")["reference_tangent"])
    assert tangent.shape == (9, 9)
    assert tangent[0, 0] == pytest.approx(1 / np.mean(1 / np.array([3.5, 35.0])))
    assert "9 components" in refuse(*words, "--gradient", "1,0,0,1")
    assert "2D" in refuse(*words, "--picture", tmp_path / "cube.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.msh",), "neither a file nor one of fibre, void, sphere, laminate, random"),
        (("void", "--material", "1=rubber:1,1"), "no material 'rubber'"),
        (("void", "--material", "1:neo-hookean=1,1"), "TAG=LAW:NUMBERS"),
        (("void", "--material", "1=neo-hookean:-1,1"), "above 0"),
        (("void", "--tag-name", "phase"), "leave it out"),
        (("void", "--gradient", "1,0,0"), "4 components F11,F12,F21,F22, got 3"),
        (("void", "--gradient", "1,0,0,-1"), "det F > 0"),
        (("void", "--fraction", "0.9"), "fraction must lie between"),
        (("void", "--count", "3"), "--count shape other cells, but void is generated: leave it out"),
        (("random", "--dim", "3", "--count", "40", "--fraction", "0.5"), "no place for inclusion"),
        (("void", "--leave-out", "0"), "--leave-out shape other cells, but void is generated: leave it out"),
        (("void", "--material", "1=isotropic:1"), "'1=isotropic:1': takes MU,LAMBDA, got 1 numbers"),
        (("void", "--material", "1=conduction:0"), "K must be above 0"),
        (("void", "--material", "1=conduction:1", "--kinematics", "small-strain"), "but the problem is small-strain"),
        (("fibre", "--material", "1=conduction:1"), "tag [2] have no material"),
    ],
)
def test_what_rve_refuses(words, message):
    pytest.importorskip("dolfinx")
    assert message in refuse("rve", *words)


def layers(*laws):
    return [word for tag, law in enumerate(laws, start=1) for word in ("--material", f"{tag}={law}")]


def test_rve_of_other_kinematics_is_told_by_the_laws(tmp_path):
    """Layers with normal e₁: the normal modulus and the conductivity across are harmonic means, along arithmetic."""
    words = ("laminate", "--size", "0.5", "--json")
    told = succeed("rve", *words, *layers("isotropic:1,1.5", "isotropic:10,15"), "--gradient", "0.1,0,0")
    assert told["components"]["gradient"] == ["ε11", "ε22", "√2·ε12"]
    assert told["flux"][0] == pytest.approx(0.1 / np.mean([1 / 3.5, 1 / 35]))
    assert told["energy"] == pytest.approx(0.05 * told["flux"][0])
    picture = tmp_path / "cell.png"
    told = succeed("rve", *words, *layers("conduction:1", "conduction:9"), "--gradient", "1,1", "--picture", picture)
    assert told["flux"] == pytest.approx([-1.8, -5.0])
    assert picture.read_bytes().startswith(b"\x89PNG") and "energy" not in told
    told = succeed("rve", *words, *layers("field-conduction:1,1", "field-conduction:9,9"), "--gradient", "2,0,1")
    assert told["flux"] == pytest.approx([0.0, -15.0])
    assert np.shape(told["tangent"]) == (2, 3)


def test_rve_with_history():
    """Layers that yield alike are a homogeneous solid; data sets of single samples know nothing of paths."""
    words = ("laminate", "--size", "0.5", *layers("von-mises:1,1.5,0.01,0.1", "von-mises:1,1.5,0.01,0.1"))
    told = succeed("rve", *words, "--gradient", "0.1,-0.02,0.03", "--json")
    law = VonMisesPlasticity(1.0, 1.5, 0.01, hardening=0.1)
    exact = law.evaluate(np.array([[0.1, -0.02, 0.03]]), law.initial_state(1), 0.0)
    np.testing.assert_allclose(told["flux"], exact.flux[0], rtol=1e-10)
    np.testing.assert_allclose(told["tangent"], exact.tangent[0], rtol=1e-9, atol=1e-12)
    box = ("--lower", "-0.1,-0.1,-0.1", "--upper", "0.1,0.1,0.1", "--out", "never")
    assert "its flux depends on the path" in refuse("sample", *words, *box)
    viscous = layers("generalised-maxwell:1,1.5,1,1.5", "isotropic:1,1.5")
    assert "MUi,LAMBDAi,TAUi for each branch, got 4 numbers" in refuse("rve", "laminate", *viscous)
    viscous = layers("generalised-maxwell:1,1.5,1,1.5,9", "generalised-maxwell:1,1.5,1,1.5,9")
    at_once = succeed("rve", "laminate", "--size", "0.5", *viscous, "--json")["reference_tangent"]
    np.testing.assert_allclose(at_once, isotropic_stiffness(2.0, 3.0, 2), atol=1e-12)


def test_rve_of_an_image_and_its_boundary_conditions(tmp_path):
    """A chequerboard: Voigt–Reuss bounds, and uniform ≤ periodic ≤ linear; with voids left out, less than any."""
    image = tmp_path / "board.npy"
    np.save(image, np.kron([[0, 1], [1, 0]], np.ones((4, 4), dtype=int)))
    words = ("rve", image, "--degree", 1, "--json")
    laws = ("--material", "0=conduction:1", "--material", "1=conduction:9")
    kinds = ("uniform", "periodic", "linear")
    kappa = [-succeed(*words, *laws, "--boundary", kind)["reference_tangent"][0][0] for kind in kinds]
    assert 1.8 < kappa[0] < kappa[1] < kappa[2] < 5.0
    image_with_hole = np.ones((6, 6), dtype=int)
    image_with_hole[2:4, 2:4] = 0
    np.save(image, image_with_hole)
    hole = succeed(*words, "--material", "1=conduction:1", "--leave-out", "0")["reference_tangent"]
    assert 0.5 < -hole[0][0] < 1 - 1 / 9


def test_rve_of_a_sphere_in_small_strain():
    words = ("rve", "sphere", "--kinematics", "small-strain", "--degree", 1, "--size", "0.4", "--json")
    tangent = np.array(succeed(*words)["reference_tangent"])
    assert tangent.shape == (6, 6)
    assert 3.5 < tangent[0, 0] < 35 and np.linalg.eigvalsh(tangent).min() > 2.0


def test_rve_of_random_spheres():
    words = ("rve", "random", "--kinematics", "conduction", "--dim", 3, "--count", 3, "--size", 0.3, "--degree", 1)
    first, same, other = (
        succeed(*words, "--fraction", 0.15, "--cell-seed", seed, "--json")["reference_tangent"] for seed in (4, 4, 5)
    )
    assert np.shape(first) == (3, 3) and first == same != other


def test_rve_under_mpirun_tells_once():
    mpirun = shutil.which("mpirun") or pytest.skip("no mpirun")
    words = [mpirun, "-n", "2", sys.executable, "-m", "coupling", "rve", "laminate", "--size", "0.5", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["flux"]) == 4


@pytest.mark.parametrize(
    ("typed", "expected", "missing"),
    [
        ("ru", ["run"], "surrogates"),
        ("rve --kin", ["--kinematics"], "surrogates"),
        ("rve vo", ["void"], "surrogates"),
        ("rve void --boundary ", ["periodic", "linear", "uniform"], "surrogates"),
        ("train --fam", ["--family"], "solver_adapters"),
        ("run --ex", ["--example"], "surrogates"),
    ],
)
def test_completion_imports_the_named_command_only(typed, expected, missing):
    """The other packages need not even be there, once the command is named."""
    blocked = f"sys.modules['{missing}'] = None; " if " " in typed else ""
    program = f"import sys; {blocked}from coupling.command_line import main; main()"
    asked = {
        "_TWOSCALE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"twoscale {typed}",
        "COMP_CWORD": f"{len(typed.split(' '))}",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ | asked
    )
    assert done.stdout.split() == expected, done.stderr


@pytest.mark.parametrize("text", ["1,0,zero,1", "", "1,nan,0,1", "1;0;0;1"])
def test_gradients_that_are_no_numbers(text):
    assert "--gradient" in refuse("rve", "void", "--gradient", text, code=2)


def test_sampled_data_are_the_law(data):
    loaded = Dataset.load(data)
    exact = LAW.evaluate(loaded.gradient, None, 0.0)
    np.testing.assert_array_equal(loaded.flux, exact.flux)
    assert [path.name for path in data.parent.iterdir() if "partial" in path.name] == []


def test_sample_of_a_conductivity_that_depends_on_the_field(tmp_path):
    pytest.importorskip("dolfinx")
    out = tmp_path / "layers.safetensors"
    laws = layers("field-conduction:1,1", "field-conduction:9,9")
    box = ("--lower", "0,-1,-1", "--upper", "2,1,1", "--samples", 12)
    assert succeed("sample", "laminate", "--size", "0.5", *laws, *box, "--out", out, "--json")["samples"] == 12
    loaded = Dataset.load(out)
    theta, g = loaded.gradient[:, 0], loaded.gradient[:, 1:]
    np.testing.assert_allclose(loaded.flux, -(1 + theta)[:, None] * [1.8, 5.0] * g, rtol=1e-9, atol=1e-12)
    assert loaded.spec.reference == (1.0, 0.0, 0.0)
    assert "polynomial flux" in refuse("train", out, "--out", tmp_path / "model", "--family", "network")
    told = succeed("train", out, "--out", tmp_path / "model", "--degree", 2, "--json")
    assert told["family"] == "polynomial-flux" and told["hold_out_errors"]["flux_max"] < 1e-9
    told = succeed("check", tmp_path / "model", "--json", "--figure", tmp_path / "figure.png")
    assert told["passed"] and "energy_rms" not in told["errors"]["hold-out errors"]
    checks = {check["name"]: check["explanation"] for check in told["checks"]}
    for name in ("symmetry", "objectivity", "zero stress at rest", "growth"):
        assert checks[name].startswith("does not apply")
    assert "of the conductivity 0.5 of that at mid-range, at (0, " in checks["strong ellipticity"]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_small_strain_from_samples_to_a_program(tmp_path):
    pytest.importorskip("dolfinx")
    data, model, program = (tmp_path / name for name in ("layers.safetensors", "model", "program"))
    words = ("sample", "laminate", "--size", "0.5", *layers("isotropic:1,1.5", "isotropic:10,15"))
    box = ("--lower=-0.1,-0.1,-0.1", "--upper", "0.1,0.1,0.1", "--samples", 20)
    succeed(*words, *box, "--out", data)
    assert "flux" in succeed("train", data, "--out", model, "--degree", 1)
    table = succeed("check", model, "--figure", tmp_path / "figure.png")
    assert "symmetry              │ ✓" in table and "growth                │ –" in table
    fresh = tmp_path / "fresh.safetensors"
    succeed(*words, *box, "--seed", 1, "--out", fresh)
    assert succeed("check", model, "--data", fresh, "--json")["errors"]["errors on fresh data"]["flux_max"] < 1e-9
    succeed("export", model, "--program", program)
    strain = np.array([[0.05, 0.0, 0.0]])
    for kept in (model, program):
        response = load_folder(kept).evaluate(strain, None, 0.0)
        assert response.flux[0, 0] == pytest.approx(0.05 / np.mean([1 / 3.5, 1 / 35]))


def test_what_sample_refuses(data, tmp_path):
    law = ("sample", "tests.test_command_line:LAW")
    assert "is there already" in refuse(*law, *BOX, "--out", data)
    assert "no folder" in refuse(*law, *BOX, "--out", tmp_path / "none" / "x")
    assert "below its upper" in refuse(*law, "--lower", "1.2,0.8,0", "--upper", "0.8,1.2,0", "--out", tmp_path / "x")
    linear = ("--material", "1=conduction:1", "--size", 0.5)
    assert "needs 2 components, g1, g2, got 3" in refuse("sample", "void", *BOX, *linear, "--out", tmp_path / "x")
    assert "cannot load" in refuse("sample", "no_such_module:law", *BOX, "--out", tmp_path / "x")
    assert "--size, --material shape" in refuse(
        *law, *BOX, "--size", 0.1, "--material", "1=neo-hookean:1,1", "--out", tmp_path / "x"
    )
    assert "--lower" in refuse(*law, "--lower", "a", "--upper", "1", "--out", tmp_path / "x", code=2)


def test_train_reports_the_errors_on_the_card(data, polynomial):
    table = succeed("train", data, "--out", polynomial.with_name("network"), "--hidden", "6", "--iterations", "8")
    errors = load_model(polynomial.with_name("network")).card.errors
    assert f"{errors.flux_rms:.2e}" in table
    assert "18 samples held out" in table


def test_what_train_refuses(data, tmp_path):
    assert "no such data set" in refuse("train", tmp_path / "none", "--out", tmp_path / "m")
    assert "choose another" in refuse("train", data, "--out", tmp_path)
    assert "lower the degree" in refuse(
        "train", data, "--out", tmp_path / "m", "--family", "polynomial", "--degree", 40
    )
    assert "32,32" in refuse("train", data, "--out", tmp_path / "m", "--hidden", "a", code=2)
    assert list(tmp_path.iterdir()) == []


def test_check_finds_that_a_polynomial_does_not_grow(polynomial, tmp_path):
    result = call("check", polynomial, "--json", "--figure", tmp_path / "figure.png")
    told = json.loads(result.stdout)
    assert [check["name"] for check in told["checks"] if not check["passed"]] == ["growth"]
    assert (result.exit_code, told["passed"]) == (1, False)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert succeed("check", polynomial, "--waive", "growth", "--json")["passed"]


def test_check_on_fresh_data(data, polynomial, tmp_path):
    fresh = law_samples(tmp_path, samples=60, seed=5)
    words = ("check", polynomial, "--waive", "growth", "--data")
    told = succeed(*words, fresh, "--json")
    assert 0.0 < told["errors"]["errors on fresh data"]["flux_rms"] < 1e-2
    assert "trained on" in refuse(*words, data)
    assert call(*words, fresh, "--limit", "1e-9").exit_code == 1


def test_what_check_refuses(polynomial, tmp_path):
    assert "not a model folder" in refuse("check", tmp_path)
    assert "no check 'grow'" in refuse("check", polynomial, "--waive", "grow", code=2)


SLOW = """
import time
from coupling.closed_forms import StretchNeoHookean
class Slow(StretchNeoHookean):
    def evaluate(self, gradient, state, dt, hint=None):
        time.sleep(0.02 * len(gradient))
        return super().evaluate(gradient, state, dt, hint)
LAW = Slow(1.0, 1.5)
"""


def test_ctrl_c_keeps_what_was_computed_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    out, partial = tmp_path / "data.safetensors", tmp_path / "data.safetensors.partial"
    words = ["-m", "coupling", "sample", "slow:LAW", *BOX, "--samples", "100", "--batch", "5", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    first = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    end = time.monotonic() + 20
    while len(list(partial.glob("batch*"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=20)
    kept = {path: path.stat().st_mtime_ns for path in partial.glob("batch*")}
    assert first.returncode == 130, told
    assert "Traceback" not in told
    assert f"{5 * len(kept)} of 100 samples done" in " ".join(told.split())
    assert 3 <= len(kept) < 20
    assert not out.exists()
    second = subprocess.run(
        [sys.executable, *words, "--json"], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["samples"] == 100
    assert not partial.exists()
    np.testing.assert_array_equal(Dataset.load(out).flux, LAW.evaluate(Dataset.load(out).gradient, None, 0.0).flux)


SLOW_BAR = """
[mesh]
kind = "rectangle"
cells = [2, 2]
[closure]
fine = "slow_law:LAW"
[[boundary]]
where = "left"
name = "held"
value = { x = 0.0, y = 0.0 }
[[boundary]]
where = "right"
value = { x = 0.1 }
[steps]
count = 100
"""
SLOW_LAW = """
import time
from coupling.closed_forms import NeoHookean
class Slow(NeoHookean):
    def evaluate(self, *arguments, **options):
        time.sleep(0.03)
        return super().evaluate(*arguments, **options)
LAW = Slow(1.0, 1.5)
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_ends_every_rank_of_a_run_and_keeps_its_steps(ranks, tmp_path):
    pytest.importorskip("dolfinx")
    if ranks > 1 and MPI.Get_library_version().startswith("Open MPI v6.0"):
        pytest.skip("mpirun of Open MPI 6.0 kills its ranks at once, without a signal that they could act on")
    (tmp_path / "slow_law.py").write_text(SLOW_LAW, encoding="utf-8")
    (tmp_path / "bar.toml").write_text(SLOW_BAR, encoding="utf-8")
    words = [sys.executable, "-m", "coupling", "run", str(tmp_path / "bar.toml")]
    if ranks > 1:
        words = [shutil.which("mpirun") or pytest.skip("no mpirun"), "-n", str(ranks), *words]
    results = tmp_path / "bar-results"
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    end = time.monotonic() + 60
    while len(_rows(results)) < 5 and running.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=30)
    rows = _rows(results)
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    assert (summary["ended"], summary["completed"], summary["ranks"]) == ("interrupted", False, ranks)
    assert 3 <= len(summary["steps"]) == len(rows) - 2 < 100
    assert float(rows[-1].split(",")[0]) == summary["final"]["load"]
    assert "Traceback" not in told
    if ranks == 1:  # mpirun has an exit code and a silence of its own
        assert (running.returncode, "interrupted at load factor" in told) == (130, True)


def _rows(results):
    """Lines of the history so far, the head included."""
    file = results / "history.csv"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
