"""What a server says about itself, and the command line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request

import pytest
from typer.testing import CliRunner

from coupling.command_line import app
from coupling.serving.models import probes
from coupling.serving.starting import server_environment
from tests import serving_models
from tests.serving_processes import MODELS, NEO_HOOKEAN, running, short_folder, wait_for

pytestmark = pytest.mark.timeout(60)
SPEC = serving_models.neo_hookean().spec


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def server():
    with running(f"m={NEO_HOOKEAN}", metrics=free_port()) as server, server.surrogate("m") as remote:
        for n in (1, 64, 1000):
            remote.evaluate(probes(SPEC, n), None, 1.0)
        yield server


def run(server, *arguments):
    return CliRunner().invoke(app(), ["serve", "--socket", server.address, *arguments])


def test_the_state_counts_what_was_served(server):
    state = server.status()
    (model,) = state["models"]
    assert (state["device"], state["threads"], state["clients"]) == ("cpu", 1, 1)
    assert (model["requests"], model["points"], model["failed"]) == (3, 1065, 0)
    assert model["batch_sizes"] == {"<2": 1, "<128": 1, "<1024": 1}
    assert sum(model["batch_sizes"].values()) == model["batches"]
    latency = list(model["latency_seconds"].values())
    assert 0.0 < latency[0] <= latency[-1] < 1.0
    assert 0.0 < model["compute_seconds"] < 1.0
    assert state["memory_bytes"] > 1 << 20


def test_as_a_table_and_as_json(server):
    table = run(server, "--status").output
    assert "1,065" in table
    assert "Batches of m" in table
    state = json.loads(run(server, "--status", "--json").output)
    assert state["models"][0]["versions"][0]["source"] == NEO_HOOKEAN


def test_metrics_for_prometheus(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.settings.metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'twoscale_points_total{model="m"} 1065.0' in text
    assert "twoscale_clients 1.0" in text


def test_the_log_has_one_object_a_line(server):
    events = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [e["event"] for e in events[:2]] == ["ready", "client"]
    assert all({"time", "pid", "level", "event"} <= e.keys() for e in events)


def test_swap_and_rollback_by_command():
    with running(f"m={NEO_HOOKEAN}") as server:
        assert "version 2" in run(server, "--swap", f"m={MODELS}stiffer").stderr
        assert "version 1" in run(server, "--rollback", "m").stderr
        result = run(server, "--swap", f"m={MODELS}Useless")
        assert result.exit_code == 1
        assert "no usable answer" in " ".join(result.stderr.split())
        assert run(server, "--swap", "m").exit_code == 2


def test_served_from_the_command_line_until_told_to_stop():
    with short_folder() as folder:
        line = [sys.executable, "-m", "coupling", "serve", f"m={NEO_HOOKEAN}", "--socket", str(folder / "s")]
        process = subprocess.Popen(line, env=server_environment(1), stderr=subprocess.PIPE, text=True)
        try:
            first = process.stderr.readline() + process.stderr.readline()
            assert "1 models at" in first or "TWOSCALE_SERVER" in first
            wait_for(lambda: (folder / "s").exists())
            again = subprocess.run(line, env=server_environment(1), capture_output=True, text=True, timeout=30)
            assert again.returncode == 1
            assert "a server is running" in again.stderr
            assert CliRunner().invoke(app(), ["serve", "--socket", str(folder / "s"), "--stop"]).exit_code == 0
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.stderr.close()
            process.wait()
        gone = CliRunner().invoke(app(), ["serve", "--socket", str(folder / "s"), "--status"])
        assert gone.exit_code == 1
        assert "no model server answers" in " ".join(gone.stderr.split())
