"""``twoscale serve``: run a model server, ask one how it is, or have it change a model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from coupling.errors import ServerError, ServerUnavailableError
from coupling.serving.address import VARIABLE, addresses_of_node, lock, node_address
from coupling.serving.gpus import visible_gpus
from coupling.serving.link import ask
from coupling.serving.loading import canonical
from coupling.serving.locality import own_device
from coupling.serving.settings import Settings
from coupling.serving.starting import command, server_environment
from coupling.serving.status import overview, tables

_console = Console(stderr=True)


def serve(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=]MODEL…", help="model folders, or module:object")
    ] = None,
    device: Annotated[str, typer.Option(help="auto (a server for each GPU, or the CPU), cpu or cuda:K")] = "auto",
    socket: Annotated[str | None, typer.Option(help=f"path or @NAME; default: {VARIABLE}, or the device's")] = None,
    precision: Annotated[str, typer.Option(help="float64, or float32 where the model's card allows it")] = "float64",
    threads: Annotated[int, typer.Option(min=1, help="for the numerical libraries")] = 1,
    linger: Annotated[float, typer.Option(min=0, max=100, help="µs that a batch waits for more clients")] = 0.0,
    idle: Annotated[float | None, typer.Option(help="stop after so many seconds without a client")] = None,
    hang: Annotated[float, typer.Option(help="seconds without a sign of life before it is replaced")] = 30.0,
    log: Annotated[Path | None, typer.Option(help="file for the log (JSON lines); default: standard error")] = None,
    metrics: Annotated[
        int | None, typer.Option(help="port for Prometheus on this machine's loopback; on a further GPU the next")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="show how the running server is")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="show it as JSON")] = False,
    swap: Annotated[str | None, typer.Option(metavar="NAME=MODEL", help="have it switch to a new version")] = None,
    tolerance: Annotated[float | None, typer.Option(help="largest relative change of the flux in a swap")] = None,
    rollback: Annotated[str | None, typer.Option(metavar="NAME", help="have it go back to the version before")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="have it stop")] = False,
) -> None:
    """Serve models to all processes of this user on this machine, or talk to the servers that do.

    Without --socket and --device, what is asked is asked of all servers of the machine.
    """
    try:
        address = socket or os.environ.get(VARIABLE)
        wish = _wish(status, swap, tolerance, rollback, stop)
        if wish is not None:
            if address is None and device == "auto":
                _show_all(addresses_of_node(), wish, as_json)
            else:
                _show(ask(address or node_address(device), wish, timeout=60.0), as_json)
            return
        named = dict(_named(text) for text in models or [])
        path = None if log is None else str(log)
        where = Settings("", named, device, precision, threads, log=path, metrics=metrics)
        _run(_placed(replace(where, idle=idle, linger=1e-6 * linger, hang=hang), address))
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


def _placed(settings: Settings, address: str | None) -> list[Settings]:
    """The settings with addresses; those of several servers where each GPU gets one."""
    if address is not None:
        device = own_device() if settings.device == "auto" else settings.device
        return [replace(settings, address=address, device=device)]
    gpus = len(visible_gpus()) if settings.device == "auto" else 0
    devices = [f"auto:{number}" for number in range(gpus)] or [settings.device]
    ports = [None if settings.metrics is None else settings.metrics + number for number in range(len(devices))]
    return [
        replace(settings, address=node_address(device), device=device, metrics=port)
        for device, port in zip(devices, ports, strict=True)
    ]


def _run(servers: list[Settings]) -> None:
    """Become the server, or the parent of several until the last has ended, where no other is at their addresses."""
    for settings in servers:
        held = lock(settings.address)
        if held is None:
            raise ServerError(f"a server is running at {settings.address}: --status shows it, --stop stops it")
        os.close(held)
        _console.print(escape(f"{len(settings.models)} models at {settings.address}; Ctrl-C ends the server"))
        if len(servers) == 1:
            _console.print(f"[dim]{VARIABLE}={escape(settings.address)} leads clients to it")
    sys.stderr.flush()
    lines, environment = [command(settings) for settings in servers], server_environment(servers[0].threads)
    if len(lines) == 1:
        os.execve(lines[0][0], lines[0], environment)
    processes = [subprocess.Popen(line, env=environment) for line in lines]

    def end(*_: Any) -> None:
        for process in processes:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    raise typer.Exit(max(abs(process.wait()) for process in processes))


def _show_all(addresses: list[str], wish: dict[str, Any], as_json: bool) -> None:
    """Ask all servers that listen at the addresses, and show what they say.

    Raises:
        ServerUnavailableError: where none does.
        ServerRefusedError: where one says no, after the others have been asked.
    """
    answers: dict[str, dict[str, Any]] = {}
    refusals: list[ServerError] = []
    for address in addresses:
        try:
            answers[address] = ask(address, wish, timeout=60.0)
        except ServerUnavailableError:  # one that has crashed has left its socket
            continue
        except ServerError as error:
            refusals.append(error)
    if not answers and not refusals:
        raise ServerUnavailableError("no model server of yours answers on this machine: twoscale serve starts one")
    states = [answer["status"] for answer in answers.values() if "status" in answer]
    if as_json:
        print(json.dumps(states or list(answers.values()), indent=2))
    elif len(states) > 1:
        Console().print(overview(states))
    else:
        for answer in answers.values():
            _show(answer, as_json)
    if refusals:
        raise refusals[0]


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.get("status", answer), indent=2))
    elif "status" in answer:
        for table in tables(answer["status"]):
            Console().print(table)
    else:
        _console.print(", ".join(f"{key} {value}" for key, value in answer.items() if key != "ok") or "done")
