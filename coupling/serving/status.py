"""The state of a server for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table


def overview(states: list[dict[str, Any]]) -> Table:
    """The reports of several servers, a row for each."""
    table = Table("device", "process", "up", "memory", "clients", "queue", "models", "requests", "points")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_column("address", overflow="fold")
    for state in states:
        models = state["models"]
        table.add_row(
            state["device"],
            str(state["pid"]),
            f"{state['uptime_seconds']:.0f} s",
            f"{state['memory_bytes'] / 2**20:.0f} MiB",
            str(state["clients"]),
            f"{state['queue']['points']:,}",
            str(len(models)),
            f"{sum(model['requests'] for model in models):,}",
            f"{sum(model['points'] for model in models):,}",
            escape(state["address"]),
        )
    table.title, table.caption = "Model servers of this machine", "--socket ADDRESS shows one of them"
    return table


def tables(state: dict[str, Any]) -> Iterator[Table]:
    """The report of a server as tables: the server, its models, the sizes of their batches."""
    yield _server(state)
    yield _models(state["models"])
    for model in state["models"]:
        if model["batch_sizes"]:
            yield _sizes(model)


def _server(state: dict[str, Any]) -> Table:
    table = Table("", "", title=escape(f"Model server at {state['address']}"), show_header=False)
    queue = state["queue"]
    for name, value in (
        ("process", str(state["pid"])),
        ("device", f"{state['device']}, {state['precision']}, {state['threads']} thread(s)"),
        ("up", f"{state['uptime_seconds']:.0f} s"),
        ("memory", f"{state['memory_bytes'] / 2**20:.0f} MiB"),
        ("clients", str(state["clients"])),
        ("queue", f"{queue['requests']} requests, {queue['points']:,} points"),
    ):
        table.add_row(name, value)
    return table


def _models(models: list[dict[str, Any]]) -> Table:
    table = Table("model", "version", "requests", "points", "failed", "µs/point", "p50 ms", "p99 ms", title="Models")
    for column in table.columns[1:]:
        column.justify = "right"
    for model in models:
        latency = model["latency_seconds"]
        table.add_row(
            escape(model["name"]),
            " ".join(f"{'*' if v['number'] == model['current'] else ''}{v['number']}" for v in model["versions"]),
            f"{model['requests']:,}",
            f"{model['points']:,}",
            f"{model['failed']:,}",
            f"{1e6 * model['compute_seconds'] / max(1, model['points']):.2f}",
            f"{1e3 * latency['p50']:.3f}",
            f"{1e3 * latency['p99']:.3f}",
        )
    return table


def _sizes(model: dict[str, Any]) -> Table:
    table = Table("points", "batches", "", title=escape(f"Batches of {model['name']}"))
    most = max(model["batch_sizes"].values())
    for size, count in model["batch_sizes"].items():
        table.add_row(size, f"{count:,}", "█" * max(1, round(40 * count / most)))
    return table
