"""``twoscale info``: the environment, what is wrong with it, and how to mend it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from coupling.diagnosis import Finding, findings
from coupling.environment import Package, gpu_files, packages, twoscale_version
from coupling.terminal import answer

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TWOSCALE_SERVER")


def info(as_json: Annotated[bool, typer.Option("--json", help="write JSON")] = False) -> None:
    """Show versions, BLAS, threads, MPI and GPUs, what is wrong with them, and how to mend it.

    A package that is merely missing is named with what it is needed for, and is not wrong.

    [b]Exit code[/b]: 0 nothing is wrong, 1 something is.

    [b]Example[/b]: twoscale info --json | jq .findings
    """
    found, cores, gpus = packages(), len(os.sched_getaffinity(0)), gpu_files()
    said = sorted(findings(found, os.environ, cores=cores, gpus=gpus), key=lambda finding: not finding.wrong)
    values = {
        "twoscale": twoscale_version(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": cores,
        "gpus": _gpus(found),
        "packages": {package.name: _package(package) for package in found},
        "variables": {name: os.environ.get(name) for name in _VARIABLES},
        "findings": [asdict(finding) for finding in said],
    }
    answer(values, [_versions(values, found), *_advice(said)], as_json=as_json)
    raise typer.Exit(int(any(finding.wrong for finding in said)))


def _gpus(found: Sequence[Package]) -> list[str]:
    return [name for package in found for name in package.details.get("gpus", [])]


def _package(package: Package) -> dict[str, Any]:
    shown = {key: package.details[key] for key in ("threads", "library", "petsc", "scalar") if key in package.details}
    blas = {} if package.blas is None else {"blas": package.blas}
    return {"version": package.version, "error": package.error, **blas, **shown}


def _versions(values: dict[str, Any], found: Sequence[Package]) -> Table:
    table = Table("", "version", "", title="environment")
    table.add_row("twoscale", escape(values["twoscale"]), "")
    table.add_row("python", values["python"], f"{values['cores']} cores, {values['system']}")
    for package in found:
        details = {key: value for key, value in _package(package).items() if key not in ("version", "error")}
        words = ", ".join(
            f"{value} thread{'s' * (value != 1)}" if key == "threads" else str(value) for key, value in details.items()
        )
        table.add_row(
            package.name, package.version or "[dim]missing" * (not package.error) or "[red]broken", escape(words)
        )
    table.add_row("GPU", "", ", ".join(values["gpus"]) or "none that torch can use")
    pinned = [f"{name}={value}" for name, value in values["variables"].items() if value is not None]
    table.add_row("variables", "", escape(", ".join(pinned) or "none set"))
    return table


def _advice(said: Sequence[Finding]) -> list[Table]:
    if not said:
        return []
    table = Table("", "found", "mend", title="what is wrong" if any(f.wrong for f in said) else "nothing is wrong")
    for finding in said:
        table.add_row("[bold red]✗" if finding.wrong else "[dim]·", escape(finding.what), escape(finding.mend))
    return [table]
