"""Mistakes in case files: each is told with its line and its key, and all of them at once."""

import json
import os

from mpi4py import MPI

import meshio
import numpy as np
import pytest
from typer.testing import CliRunner

from coupling.command_line import app
from coupling.errors import CaseError
from solver_adapters.case.building import prepare
from solver_adapters.case.positions import key_lines, line_of
from solver_adapters.case.reading import CaseFile
from surrogates import Dataset, StretchBox, fit_polynomial, save_model

pytestmark = pytest.mark.skipif("OMPI_COMM_WORLD_SIZE" in os.environ, reason="on one rank")

GOOD = """\
[mesh]
kind = "rectangle"
cells = [2, 1]
[macro]
degree = 1
[rve]
cell = { kind = "laminate", size = 0.5 }
[rve.materials.1]
law = "neo-hookean"
mu = 1.0
lambda = 2.0
[rve.materials.2]
law = "neo-hookean"
young = 20.0
poisson = 0.3
[[boundary]]
where = "left"
value = { x = 0.0, y = 0.0 }
[[load]]
where = "right"
value = { y = 0.1 }
[steps]
count = 2
[[output.probes]]
name = "tip"
point = [1.0, 0.5]
"""
FIT = "[closure]\nmode = 'replace'\nfit = { degree = 4, lower = [0.9, 0.9, -0.1], upper = [1.1, 1.1, 0.1] }\n[steps]"
PLASTIC = """\
[macro]
degree = 1
kinematics = "small-strain"
[rve]
cell = { kind = "void", size = 0.5 }
materials.1 = { law = "von-mises", young = 1.0, poisson = 0.3, yield_stress = 0.01 }
"""

# what to replace in GOOD, by what, and the line, key and message of the mistake
MISTAKES = {
    "syntax": ("cells = [2, 1]", "cells = [2, 1", "4: is no TOML: Unclosed array"),
    "key twice": ("degree = 1", "degree = 1\ndegree = 2", "6: is no TOML: Cannot overwrite a value"),
    "text in place of a number": ("mu = 1.0", 'mu = "1.0"', "10: rve.materials.1.mu: must be a number, got '1.0'"),
    "fraction of a degree": ("degree = 1", "degree = 1.5", "5: macro.degree: must be a whole number, got 1.5"),
    "number in place of a list": ("cells = [2, 1]", "cells = 2", "3: mesh.cells: must be a list [ … ], got 2"),
    "list too long": ("cells = [2, 1]", "cells = [2, 1, 3]", "3: mesh.cells: needs at most 2 entries, got [2, 1, 3]"),
    "element of a list": ("cells = [2, 1]", "cells = [2,\n 0]", "4: mesh.cells[2]: must be at least 1, got 0"),
    "date": ("mu = 1.0", "mu = 2024-01-01", "10: rve.materials.1.mu: must be a number, got '2024-01-01'"),
    "not a number": ("mu = 1.0", "mu = nan", "10: rve.materials.1.mu: must be a finite number, got nan"),
    "table in place of text": ('kind = "rectangle"', "kind = {}", "2: mesh.kind: "),
    "negative modulus": ("mu = 1.0", "mu = -1.0", "10: rve.materials.1.mu: must be above 0, got -1.0"),
    "incompressible": ("poisson = 0.3", "poisson = 0.5", "15: rve.materials.2.poisson: must be below 0.5, got 0.5"),
    "negative bulk modulus": ("lambda = 2.0", "lambda = -2.0", "8: rve.materials.1: bulk modulus lambda + 2/3 mu must"),
    "one modulus": ("lambda = 2.0\n", "", "8: rve.materials.1: needs either 'mu' and 'lambda' or 'young' and"),
    "no steps": ("count = 2", "count = 0", "23: steps.count: must be at least 1, got 0"),
    "step too large": (
        "count = 2",
        "count = 2\nmin_step = 0.6",
        "24: steps.min_step: must be at most a full step, 1/2",
    ),
    "section missing": (
        '[mesh]\nkind = "rectangle"\ncells = [2, 1]\n',
        "",
        "1: mesh: is missing: the macroscopic mesh",
    ),
    "key missing": ("cells = [2, 1]\n", "", "1: mesh.cells: is missing: divisions along x and y"),
    "kind missing": ('kind = "rectangle"\n', "", "1: mesh.kind: is missing: one of rectangle, box, cook, file"),
    "nothing prescribed": (
        '[[boundary]]\nwhere = "left"\nvalue = { x = 0.0, y = 0.0 }\n',
        "",
        "1: boundary: is missing",
    ),
    "empty list": (
        GOOD,
        "boundary = []\n" + GOOD[: GOOD.index("[[bound")] + GOOD[GOOD.index("[[load") :],
        "1: boundary: holds nothing",
    ),
    "misspelt section": ("[steps]", "[step]", "22: step: is no key here: did you mean 'steps'?"),
    "misspelt key": ("cells", "cels", "3: mesh.cels: is no key here: did you mean 'cells'?"),
    "misspelt key deep down": ("value = { y", "value = { v", "21: load[1].value.v: is no key here: there are x, y, z"),
    "misspelt material": (
        'law = "neo-hookean"\nmu',
        'law = "neo-hokean"\nmu',
        "9: rve.materials.1.law: cannot be 'neo-hokean': did you mean 'neo-hookean'?",
    ),
    "misspelt cell": ("laminate", "laminat", "7: rve.cell.kind: cannot be 'laminat': did you mean 'laminate'?"),
    "misspelt side": ('"left"', '"lefft"', "17: boundary[1].where: cannot be 'lefft': did you mean 'left'?"),
    "law of something else": (
        'law = "neo-hookean"\nyoung',
        'law = "isotropic"\nyoung',
        "13: rve.materials.2.law: 'isotropic' is no law of finite-strain, which takes neo-hookean or saint-venant",
    ),
    "tag that is no number": (
        "[rve.materials.2]",
        "[rve.materials.two]",
        "12: rve.materials.two: must be a whole number",
    ),
    "cell tag without material": (
        GOOD[GOOD.index("[rve.materials.2]") : GOOD.index("[[boundary]]")],
        "",
        "8: rve.materials: cells of the RVE have the tag 2: add [rve.materials.2]",
    ),
    "material without cells": (
        "[rve.materials.2]",
        "[rve.materials.5]\nlaw = 'neo-hookean'\nmu = 1\nlambda = 1\n[rve.materials.2]",
        "12: rve.materials.5: no cell of the RVE has the tag 5, only 1, 2",
    ),
    "fraction too large": (
        'kind = "laminate", size = 0.5',
        'kind = "fibre", fraction = 0.9',
        "7: rve.cell: fraction must lie between 0 and 0.7854",
    ),
    "missing mesh file": (
        'kind = "rectangle"\ncells = [2, 1]',
        'kind = "file"\npath = "nowhere.msh"',
        "3: mesh.path: ",
    ),
    "file that is no mesh": (
        'kind = "rectangle"\ncells = [2, 1]',
        'kind = "file"\npath = "case.toml"',
        "3: mesh.path: ",
    ),
    "missing RVE mesh": (
        'kind = "laminate", size = 0.5',
        'kind = "file", path = "x.vtu"',
        "7: rve.cell.path: there is no file",
    ),
    "RVE of another dimension": (
        'kind = "laminate", size = 0.5',
        'kind = "laminate", size = 0.5, dim = 3',
        "7: rve.cell: is 3D, but the macroscopic mesh is 2D",
    ),
    "image that is none": (
        'kind = "laminate", size = 0.5',
        'kind = "image", path = "odd.npy"',
        "7: rve.cell.path: an image must",
    ),
    "corners exchanged": ("cells = [2, 1]", "cells = [2, 1]\nlower = [2.0, 0.0]", "1: mesh: lower must be below upper"),
    "place outside of the mesh": (
        'where = "left"',
        "where = { x = 3.0 }",
        "17: boundary[1].where: selects no node: the mesh spans x from 0 to 1, y from 0 to 1",
    ),
    "load inside of the mesh": (
        'where = "right"',
        "where = { x = 0.5 }",
        "20: load[1].where: selects no facet of the bound",
    ),
    "third direction": ('where = "left"', 'where = "front"', "17: boundary[1].where: selects by z, but the mesh is 2D"),
    "third component": (
        "value = { y = 0.1 }",
        "value = { z = 1.0 }",
        "21: load[1].value: has a component z, but the mesh",
    ),
    "place without coordinates": ('where = "left"', "where = {}", "17: boundary[1].where: needs a coordinate, such as"),
    "place and tag": (
        'where = "left"',
        'where = "left"\ntag = 1',
        "16: boundary[1]: needs either 'where' or 'tag', not",
    ),
    "tag without tags": ('where = "left"', "tag = 1", "17: boundary[1].tag: selects a tag, but the mesh has no tags"),
    "number for a vector": (
        "value = { y = 0.1 }",
        "value = 0.1",
        "21: load[1].value: must be components, such as { x = 0.0 }, for finite-strain",
    ),
    "no components": ("value = { y = 0.1 }", "value = {}", "21: load[1].value: has no components: give some"),
    "initial displacement": ("degree = 1", "initial = 1.0", "5: macro.initial: is of a scalar unknown"),
    "probe outside": (
        "point = [1.0, 0.5]",
        "point = [1.1, 0.5]",
        "26: output.probes[1].point: (1.1, 0.5) lies in no cell",
    ),
    "probe in 3D": ("point = [1.0, 0.5]", "point = [1.0, 0.5, 0]", "26: output.probes[1].point: needs 2 coordinates"),
    "name with a blank": ('"tip"', '"the tip"', "25: output.probes[1].name: must be a name of letters, digits and _"),
    "name twice": ('where = "left"', 'where = "left"\nname = "tip"', "26: output.probes[1].name: 'tip' occurs twice"),
    "no surrogate": (
        "[steps]",
        "[closure]\nmode = 'replace'\n[steps]",
        '22: closure: mode = "replace" needs a surrogate',
    ),
    "half a box": (
        "[steps]",
        FIT.replace(", upper = [1.1, 1.1, 0.1]", ""),
        "24: closure.fit: needs either 'data' or both 'lower' and 'upper'",
    ),
    "box of 3D": (
        "[steps]",
        FIT.replace("-0.1]", "-0.1, 0]"),
        "24: closure.fit.lower: needs 3 components, U11, U22, √2·U12, got 4",
    ),
    "no fine scale": (
        GOOD[GOOD.index("[rve]") : GOOD.index("[[boundary]]")],
        "",
        "1: rve: is missing: describe the fine scale in [rve]",
    ),
    "two fine scales": (
        "[steps]",
        "[closure]\nfine = 'a:b'\n[steps]",
        "23: closure.fine: stands in place of [rve]: leave one of them out",
    ),
    "closure that is not there": (
        GOOD[GOOD.index("[rve]") : GOOD.index("[[boundary]]")],
        "[closure]\nfine = 'no_such_module:law'\n",
        "7: closure.fine: cannot load no_such_module:law: ModuleNotFoundError",
    ),
    "closure of another dimension": (
        GOOD[GOOD.index("[rve]") : GOOD.index("[[boundary]]")],
        "[closure]\nfine = 'tests.test_case_mistakes:three_dimensional'\n",
        "7: closure.fine: is a closure from F11, F12, F13, F21",
    ),
    "missing model": (
        "[steps]",
        "[closure]\nmode = 'replace'\nmodel = 'nowhere'\n[steps]",
        "24: closure.model: cannot load",
    ),
    "model of other units": (
        "[rve.materials.1]",
        "unit = 'MPa'\n[closure]\nmode = 'replace'\nmodel = 'model'\n[rve.materials.1]",
        "11: closure.model: fine scale and surrogate differ in flux_unit: MPa and 1",
    ),
    "missing data": (
        "[steps]",
        "[closure]\nmode = 'replace'\nfit = { data = 'x.safetensors' }\n[steps]",
        "24: closure.fit.data: ",
    ),
    "history that nothing carries on": (
        GOOD[GOOD.index("[macro]") : GOOD.index("[[boundary]]")],
        PLASTIC + FIT.removesuffix("[steps]"),
        '11: closure.mode: is "replace", but no surrogate carries the history of [rve] on: use "exact"',
    ),
    "samples of history": (
        GOOD[GOOD.index("[macro]") : GOOD.index("[[boundary]]")],
        PLASTIC + FIT.removesuffix("[steps]").replace("replace", "exact"),
        "12: closure.fit: samples the RVE, but its materials have history: give 'data' or a 'model'",
    ),
    "tolerance without RVE": (
        "[steps]",
        "[closure]\nmode = 'alone'\nmodel = 'model'\ntolerance = 1.0\n[steps]",
        "22: closure: 'tolerance' is for mode = \"replace\"",
    ),
}


def three_dimensional():
    from coupling.closed_forms import NeoHookean

    return NeoHookean(1.0, 2.0, dim=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a model, and an image that is none."""
    from coupling.closed_forms import StretchNeoHookean

    folder = tmp_path_factory.mktemp("case")
    np.save(folder / "odd.npy", np.array([[0.5, 1.0]]))
    law, rng = StretchNeoHookean(1.0, 1.5), np.random.default_rng(0)
    box = StretchBox((0.9, 0.9, -0.1), (1.1, 1.1, 0.1))
    U = rng.uniform(box.lower, box.upper, (60, 3))
    answer = law.evaluate(U, None, 0.0)
    data = Dataset(law.spec, box, U, answer.energy, answer.flux, answer.tangent, {})
    save_model(fit_polynomial(data, degree=3), folder / "model")
    return folder


def mistakes(folder, text):
    """What is told of a case file."""
    file = folder / "case.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CaseError) as caught:
        prepare(CaseFile(file), MPI.COMM_SELF)
    return str(caught.value).replace(f"{file}:", "")


def test_the_case_without_mistakes(folder):
    file = folder / "good.toml"
    file.write_text(GOOD, encoding="utf-8")
    parts = prepare(CaseFile(file), MPI.COMM_SELF)
    assert parts.fine_closure.spec.gradient == ("F11", "F12", "F21", "F22")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_line_and_key(folder, name):
    old, new, message = MISTAKES[name]
    assert GOOD.count(old) >= 1, old
    told = mistakes(folder, GOOD.replace(old, new, 1))
    assert message in told
    assert len(told.splitlines()) == 1, told


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(folder):
    text = (
        GOOD.replace("[2, 1]", "[0, 1]")
        .replace("mu = 1.0", "mu = 0")
        .replace('"left"', '"lefft"')
        .replace("tip", "a b")
    )
    told = mistakes(folder, text).splitlines()
    assert [line.partition(": ")[0] for line in told] == ["3", "10", "17", "25"]
    text = GOOD.replace('"left"', "{ x = 3.0 }").replace('"right"', "{ y = 3.0 }").replace("0.5 }", "2.0 }")
    assert [
        line.split(":")[1].strip() for line in mistakes(folder, text.replace("[1.0, 0.5]", "[5.0, 5.0]")).splitlines()
    ] == ["rve.cell.size"]
    text = text.replace("2.0 }", "0.5 }").replace("[1.0, 0.5]", "[5.0, 5.0]")
    keys = [line.split(":")[1].strip() for line in mistakes(folder, text).splitlines()]
    assert keys == ["boundary[1].where", "load[1].where", "output.probes[1].point"]


def test_a_file_that_is_not_there_or_no_text(folder):
    with pytest.raises(CaseError, match=r"nowhere.toml cannot be read: No such file"):
        CaseFile(folder / "nowhere.toml")
    (folder / "latin.toml").write_bytes("# Lamé".encode("latin-1"))
    with pytest.raises(CaseError, match=r"is no text in UTF-8"):
        CaseFile(folder / "latin.toml")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 1),
        (("t", "b", "c"), 3),
        (("t", "d", 1), 5),
        (("t", "e", "f", 0, "g"), 7),
        (("x", 0, "y"), 9),
        (("x", 1, "y"), 12),
        (("x", 1, "z", "w"), 15),
        (("quoted key",), 10),
        (("t", "not there"), 2),
    ],
)
def test_lines_of_keys(path, line):
    text = (
        "a = 1\n[t]\nb.c = 2\nd = [ 1, # one\n 2 ]\n"
        "e = { f = [\n {g = 1} ] }\n[[x]]\ny = 1\n'quoted key' = 3\n[[x]]\ny = 2\n\n[x.z]\nw = 1\n"
    )
    if path == ("quoted key",):
        path = ("x", 0, "quoted key")
    assert line_of(key_lines(text), path) == line


def test_mesh_file_with_tags_that_do_not_fit(folder):
    points = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    cells = {"triangle": [[0, 1, 2], [0, 2, 3]], "line": [[3, 0], [1, 2]]}
    data = {"side": [np.array([0, 0]), np.array([1, 2])], "other": [np.array([0, 0]), np.array([1, 2])]}
    meshio.write(folder / "panel.vtu", meshio.Mesh(points, cells, cell_data=data))
    text = GOOD.replace('kind = "rectangle"\ncells = [2, 1]', 'kind = "file"\npath = "panel.vtu"')
    assert "3: mesh.path: " in (told := mistakes(folder, text)) and "name one of them with tag_name" in told
    text = text.replace('"panel.vtu"', '"panel.vtu"\ntag_name = "side"')
    told = mistakes(folder, text.replace('where = "left"', "tag = 7").replace('where = "right"', 'tag = "wall"'))
    assert "18: boundary[1].tag: no facet has the tag 7, only 1, 2 occur" in told
    assert "21: load[1].tag: the mesh has no group of facets 'wall', only none" in told
    meshio.write(folder / "folded.vtu", meshio.Mesh(points, {"triangle": [[0, 1, 2], [0, 1, 3], [0, 1, 2]]}))
    assert "3: mesh.path: " in mistakes(folder, text.replace("panel", "folded"))


def test_as_a_command(folder):
    runner = CliRunner()
    (folder / "bad.toml").write_text(GOOD.replace("[2, 1]", "[2, 0]"), encoding="utf-8")
    done = runner.invoke(app(["run"]), ["run", str(folder / "bad.toml"), "--check"])
    assert done.exit_code == 1
    assert "bad.toml:3: mesh.cells[2]: must be at least 1, got 0" in "".join(done.stderr.splitlines())
    (folder / "good.toml").write_text(GOOD, encoding="utf-8")
    done = runner.invoke(app(["run"]), ["run", str(folder / "good.toml"), "--check", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["sound"]) == (0, True)
    assert not (folder / "good-results").exists()
    done = runner.invoke(app(["run"]), ["run", str(folder / "good.toml"), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["completed"]) == (0, True)
    assert {"summary.json", "history.csv", "report.html"} <= {path.name for path in (folder / "good-results").iterdir()}


def test_the_schema_describes_every_key():
    done = CliRunner().invoke(app(["run"]), ["run", "--schema"])
    schema = json.loads(done.stdout)
    undescribed = [
        f"{name}.{key}"
        for name, section in (schema["$defs"] | {"Case": schema}).items()
        for key, value in section.get("properties", {}).items()
        if "description" not in value and key not in ("kind", "law", "x", "y", "z")
    ]
    assert undescribed == []
