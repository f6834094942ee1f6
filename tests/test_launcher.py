"""The launcher `run`, called from inside the environment that it made or found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).resolve().parents[1] / "run"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the launcher is for Linux")


def run(*args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LAUNCHER, *args],
        cwd=cwd,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def in_launcher(command: str, cache: Path) -> str:
    """Output of a Bash command that uses the launcher's functions."""
    done = subprocess.run(
        ["bash", "-c", f'source "{LAUNCHER}"; {command}'],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{done.stdout}{done.stderr}".strip()


@pytest.fixture(scope="module", autouse=True)
def active_python() -> None:
    pytest.importorskip("dolfinx", reason="without DOLFINx the launcher would build an environment")


def test_help_names_every_command() -> None:
    for done in (run(), run("--help")):
        assert done.returncode == 0
        for command in ("demo", "test", "bench", "lint", "python", "mpi", "shell", "clean"):
            assert f"\n  {command}" in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["dance"], 2, "no command 'dance'"),
        (["demo", "no such"], 1, "no demos named 'no such'; there are:"),
        (["bench", "no such"], 1, "no tests/benchmarks named 'no such'; there are:"),
        (["mpi", "two", "-c", "pass"], 1, "a number of ranks"),
        (["mpi", "2"], 1, "a number of ranks"),
    ],
)
def test_what_it_does_not_know_it_says(args: list[str], code: int, message: str) -> None:
    done = run(*args)
    assert done.returncode == code
    assert message in done.stderr


def test_arguments_folder_and_exit_code_pass_through(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    program = "import os, sys, coupling; print(sys.argv[1:], os.getcwd()); sys.exit(7)"
    done = run("python", "-c", program, "one two", "", "*", "-y", cwd=folder)
    assert done.returncode == 7
    assert done.stdout.strip() == f"{['one two', '', '*', '-y']} {folder}"


def test_it_uses_the_python_that_has_dolfinx() -> None:
    done = run("python", "-c", "import sys; print(sys.prefix)")
    assert done.stdout.strip() == sys.prefix


def test_ranks(tmp_path: Path) -> None:
    program = """
import os
from mpi4py import MPI
ranks = MPI.COMM_WORLD.gather((os.environ["OMP_NUM_THREADS"], os.getcwd()))
if ranks:
    print(ranks)
"""
    done = run("mpi", "2", "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([("1", str(tmp_path))] * 2)
    assert run("mpi", "2", "-c", "raise SystemExit(3)").returncode == 3


def test_shell() -> None:
    assert run("shell", "-c", "python -c 'import dolfinx'; exit 5").returncode == 5


def test_another_package_list_is_another_environment(tmp_path: Path) -> None:
    same = in_launcher("root_key", tmp_path)
    assert same.startswith("root-")
    assert in_launcher("root_key", tmp_path) == same
    assert in_launcher("packages+=(another); root_key", tmp_path) != same
    assert in_launcher("export TWOSCALE_SUITE=another; root_key", tmp_path) != same


def test_an_interrupted_build_is_never_used_and_goes_away(tmp_path: Path) -> None:
    begin = 'begin() { mkdir "$1"; touch "$1/half"; '
    failing = begin + "false; }; built thing begin"
    killed = begin + "kill -KILL $$; }; built thing begin"
    whole = begin + "touch $1/whole; }; built thing begin; ls $cache/thing"
    left = tmp_path / "twoscale"
    assert "could not build" in in_launcher(failing, tmp_path)
    assert not [*left.glob("thing*")]
    in_launcher(killed, tmp_path)
    assert [path.name for path in left.glob("thing*")] == ["thing.part"]
    assert in_launcher(whole, tmp_path).split("\n")[:2] == ["half", "whole"]
    assert [path.name for path in left.glob("thing*")] == ["thing"]


def test_two_calls_do_not_build_at_once(tmp_path: Path) -> None:
    build = "slow() { mkdir $1; sleep 0.5; echo made >> $cache/log; }; built thing slow"
    in_launcher(f"({build}) & ({build}) & wait", tmp_path)
    assert (tmp_path / "twoscale" / "log").read_text() == "made\n"
