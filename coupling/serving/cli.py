"""``twoscale serve``: run a model server, ask one how it is, or have it change a model."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from coupling.errors import ServerError
from coupling.serving.address import VARIABLE, lock, node_address
from coupling.serving.link import ask
from coupling.serving.loading import canonical
from coupling.serving.settings import Settings
from coupling.serving.starting import command, server_environment
from coupling.serving.status import tables

_console = Console(stderr=True)


def serve(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=]MODEL…", help="model folders, or module:object")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:K")] = "auto",
    socket: Annotated[str | None, typer.Option(help=f"path or @NAME; default: {VARIABLE}, or the node's")] = None,
    precision: Annotated[str, typer.Option(help="float64, or float32 where the model's card allows it")] = "float64",
    threads: Annotated[int, typer.Option(min=1, help="for the numerical libraries")] = 1,
    linger: Annotated[float, typer.Option(min=0, max=100, help="µs that a batch waits for more clients")] = 0.0,
    idle: Annotated[float | None, typer.Option(help="stop after so many seconds without a client")] = None,
    hang: Annotated[float, typer.Option(help="seconds without a sign of life before it is replaced")] = 30.0,
    log: Annotated[Path | None, typer.Option(help="file for the log (JSON lines); default: standard error")] = None,
    metrics: Annotated[int | None, typer.Option(help="port for Prometheus on this machine's loopback")] = None,
    status: Annotated[bool, typer.Option("--status", help="show how the running server is")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="show it as JSON")] = False,
    swap: Annotated[str | None, typer.Option(metavar="NAME=MODEL", help="have it switch to a new version")] = None,
    tolerance: Annotated[float | None, typer.Option(help="largest relative change of the flux in a swap")] = None,
    rollback: Annotated[str | None, typer.Option(metavar="NAME", help="have it go back to the version before")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="have it stop")] = False,
) -> None:
    """Serve models to all processes of this user on this machine, or talk to a server that does."""
    try:
        address = socket or os.environ.get(VARIABLE) or node_address(device)
        wish = _wish(status, swap, tolerance, rollback, stop)
        if wish is not None:
            _show(ask(address, wish, timeout=60.0), as_json)
            return
        named = dict(_named(text) for text in models or [])
        path = None if log is None else str(log)
        where = Settings(address, named, device, precision, threads, log=path, metrics=metrics)
        _run(replace(where, idle=idle, linger=1e-6 * linger, hang=hang))
    except ServerError as error:
        _console.print(f"[red]{escape(str(error))}")
        raise typer.Exit(1) from error


def _wish(
    status: bool, swap: str | None, tolerance: float | None, rollback: str | None, stop: bool
) -> dict[str, Any] | None:
    """What to ask a running server, None where one is to be started."""
    if swap is not None:
        name, equals, source = swap.partition("=")
        if not equals:
            raise typer.BadParameter(f"expected NAME=MODEL, got {swap!r}", param_hint="--swap")
        return {"want": "swap", "model": canonical(name), "source": canonical(source), "tolerance": tolerance}
    if rollback is not None:
        return {"want": "rollback", "model": canonical(rollback)}
    return {"want": "stop"} if stop else {"want": "status"} if status else None


def _named(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    return (name, canonical(source)) if equals else (canonical(text), canonical(text))


def _run(settings: Settings) -> None:
    """Become the server, where no other is at the address."""
    held = lock(settings.address)
    if held is None:
        raise ServerError(f"a server is running at {settings.address}: --status shows it, --stop stops it")
    os.close(held)
    words = f"{len(settings.models)} models at {settings.address}; Ctrl-C ends the server"
    _console.print(escape(words), f"[dim]\n{VARIABLE}={escape(settings.address)} leads clients to it")
    sys.stderr.flush()
    line = command(settings)
    os.execve(line[0], line, server_environment(settings.threads))


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.get("status", answer), indent=2))
    elif "status" in answer:
        for table in tables(answer["status"]):
            Console().print(table)
    else:
        _console.print(", ".join(f"{key} {value}" for key, value in answer.items() if key != "ok") or "done")
