"""The server dies, hangs or was never there: what it costs, and that the answer stays the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from coupling import AcceleratedClosure, RangeGate, Status
from coupling.closed_forms import StretchNeoHookean
from coupling.errors import ContractError, ServerRefusedError, ServerUnavailableError
from coupling.serving import Breaker, RemoteSurrogate
from coupling.serving.address import node_address
from coupling.serving.frames import Code, Kind, Request
from coupling.serving.link import Link, Wanted
from coupling.serving.models import probes
from tests import serving_models
from tests.serving_processes import (
    MODELS,
    NEO_HOOKEAN,
    SLOW,
    alive,
    kill,
    node_of_its_own,
    running,
    wait_for,
)

pytestmark = pytest.mark.timeout(60)
LOCAL = serving_models.neo_hookean()
GRADIENT = probes(LOCAL.spec, 320, 0.05)
EXPECTED = LOCAL.evaluate(GRADIENT, None, 1.0)


@pytest.fixture(scope="module")
def server():
    with running(SLOW, NEO_HOOKEAN) as server:
        yield server


def assert_right(answer):
    np.testing.assert_allclose(answer.flux, EXPECTED.flux, rtol=1e-13)
    np.testing.assert_allclose(answer.tangent, EXPECTED.tangent, rtol=1e-13)
    assert (answer.status == EXPECTED.status).all()


def test_ten_moments():
    """Each evaluation takes 100 ms; the server is killed 0, 12, … 108 ms after its begin."""
    with running(SLOW, deaths=100) as server, server.surrogate(SLOW, breaker=Breaker(1000)) as remote:
        for moment in range(10):
            victim = remote.server
            timer = threading.Timer(0.012 * moment, kill, (victim,))
            timer.start()
            assert_right(remote.evaluate(GRADIENT, None, 1.0))
            timer.join()
            assert_right(remote.evaluate(GRADIENT, None, 1.0))
            assert not alive(victim)
        assert remote.ledger.counts["server/losses"] == 10
        assert remote.ledger.counts["server/sent again"] > 0
        assert "server/local points" not in remote.ledger.counts
        log = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert sum(line["event"] == "server died" and line["code"] == -signal.SIGKILL for line in log) == 10


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGTERM])
def test_however_it_ends(number):
    """SIGTERM ends it for good: then the local copy answers."""
    with (
        running(SLOW, hang=0.5) as server,
        server.surrogate(SLOW, local=serving_models.neo_hookean, start_timeout=1.0) as remote,
    ):
        ticket = remote.submit(GRADIENT, None, 1.0)
        server.signal(number)
        start = time.monotonic()
        assert_right(remote.collect(ticket))
        assert time.monotonic() - start < 3.0
        local = remote.ledger.counts.get("server/local points", 0)
    assert local == (len(GRADIENT) if number == signal.SIGTERM else 0)


def test_recovery_takes_milliseconds():
    with running(NEO_HOOKEAN) as server, server.surrogate(breaker=Breaker(1000)) as remote:
        took = []
        for _ in range(5):
            remote.evaluate(GRADIENT, None, 1.0)
            kill(remote.server)
            start = time.monotonic()
            assert_right(remote.evaluate(GRADIENT, None, 1.0))
            took.append(time.monotonic() - start)
    assert min(took) < 0.15


def test_a_server_without_sign_of_life_is_replaced():
    """The model hangs at one gradient; the supervisor notices, and the others are served by the next server."""
    with running(f"{MODELS}Hanging", NEO_HOOKEAN, hang=0.4) as server, server.surrogate(timeout=5.0) as other:
        victim = server.pid
        remote = server.surrogate(f"{MODELS}Hanging", attempts=1, timeout=5.0)
        with remote, pytest.raises(ServerUnavailableError):
            remote.evaluate(np.full((1, 3), 9.0), None, 1.0)
        assert_right(other.evaluate(GRADIENT, None, 1.0))
        assert server.pid != victim


def test_a_client_gives_up_a_server_that_does_not_answer():
    with running(f"{MODELS}Hanging") as server:
        local = serving_models.neo_hookean
        with server.surrogate(f"{MODELS}Hanging", timeout=0.3, start_timeout=0.3, local=local) as remote:
            start = time.monotonic()
            answer = remote.evaluate(np.full((1, 3), 9.0), None, 1.0)
            assert time.monotonic() - start < 3.0
        assert answer.status.tolist() == [LOCAL.evaluate(np.full((1, 3), 9.0), None, 1.0).status[0]]
        kill(server.process.pid)


def test_a_request_that_kills_every_server_ends_as_an_error():
    with running(f"{MODELS}Sensitive") as server, server.surrogate(f"{MODELS}Sensitive", attempts=2) as remote:
        with pytest.raises(ServerUnavailableError, match="has gone"):
            remote.evaluate(np.full((1, 3), 6.0), None, 1.0)
        assert remote.ledger.counts["server/losses"] == 2
        assert_right(remote.evaluate(GRADIENT, None, 1.0))


def test_the_breaker_stops_asking_and_asks_again():
    with running(NEO_HOOKEAN) as server:
        breaker = Breaker(losses=2, window=10.0, rest=0.5)
        with server.surrogate(local=serving_models.neo_hookean, breaker=breaker) as remote:
            for _ in range(2):
                kill(remote.server)
                assert_right(remote.evaluate(GRADIENT, None, 1.0))
            assert breaker.open
            assert remote.ledger.counts["server/local points"] == len(GRADIENT)
            assert_right(remote.evaluate(GRADIENT, None, 1.0))
            assert remote.ledger.counts["server/local points"] == 2 * len(GRADIENT)
            time.sleep(0.6)
            assert_right(remote.evaluate(GRADIENT, None, 1.0))
            assert remote.ledger.counts["server/local points"] == 2 * len(GRADIENT)


def test_the_fine_scale_serves_where_nothing_else_can():
    with running(NEO_HOOKEAN) as server, server.surrogate(start_timeout=0.2) as remote:
        closure = AcceleratedClosure(StretchNeoHookean(1.0, 2.0), remote, gate=RangeGate())
        assert (closure.evaluate(GRADIENT, None, 1.0).status == Status.OK).all()
        server.end()
        with pytest.warns(RuntimeWarning, match="surrogate failed, the fine scale serves"):
            answer = closure.evaluate(GRADIENT, None, 1.0)
        assert (answer.status == Status.FALLBACK).all()
        assert closure.ledger.counts["surrogate/faults"] == 1


def test_a_successor_with_another_model_is_not_taken():
    """Same name, other weights: the answers of one run must not change under it."""
    with running(f"m={NEO_HOOKEAN}") as server, server.surrogate("m", start_timeout=0.5) as remote:
        server.end()
        server.start(":neo_hookean", ":stiffer")
        with pytest.raises(ServerRefusedError, match="m is not served in version"):
            remote.evaluate(GRADIENT, None, 1.0)


def test_a_server_that_keeps_dying_is_given_up():
    with running(NEO_HOOKEAN) as server:
        while server.process.poll() is None:
            try:
                kill(server.pid)
            except ServerUnavailableError:
                time.sleep(0.005)
        assert server.process.returncode == 1
        assert not os.path.exists(server.address)


def test_the_server_ends_with_its_supervisor():
    with running(NEO_HOOKEAN) as server:
        pid = server.pid
        server.process.kill()
        wait_for(lambda: not alive(pid), timeout=5.0)


# ---- deadlines -------------------------------------------------------------------------------------------------------


@contextmanager
def stopped(*processes):
    """Processes that hang, supervisors included, so that nobody replaces them."""
    for pid in processes:
        kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        resume(processes)


def resume(processes):
    for pid in processes:
        kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("hint", ["before the request", "in the middle of it"])
def test_a_deadline_bounds_the_wait_for_a_server_that_hangs(hint):
    local = serving_models.neo_hookean
    with running(SLOW) as server, server.surrogate(SLOW, deadline=0.4, local=local, breaker=Breaker(3)) as remote:
        took, processes = [], (server.process.pid, server.pid)
        ticket = None if hint == "before the request" else remote.submit(GRADIENT, None, 1.0)
        with stopped(*processes):
            for _ in range(6):
                start = time.monotonic()
                ticket = ticket or remote.submit(GRADIENT, None, 1.0)
                assert_right(remote.collect(ticket))
                took.append(time.monotonic() - start)
                ticket = None
        assert max(took) < 1.0
        assert max(took[-2:]) < 0.1  # the breaker is open
        assert remote.ledger.counts["server/missed deadlines"] >= 1
        assert remote.ledger.counts["server/local points"] == 6 * len(GRADIENT)


def test_within_its_deadline_a_stopped_server_is_replaced():
    with running(SLOW) as server, server.surrogate(SLOW, deadline=20.0) as remote:
        ticket = remote.submit(GRADIENT, None, 1.0)
        server.signal(signal.SIGSTOP)
        assert_right(remote.collect(ticket))
        assert remote.ledger.counts["server/losses"] == 1
        assert "server/missed deadlines" not in remote.ledger.counts


def test_an_overloaded_server_drops_what_is_late_and_the_others_lose_nothing(server):
    """Half a second of work is ahead; a client with a deadline is not made to wait for its turn."""
    with (
        server.surrogate(SLOW) as busy,
        server.surrogate(SLOW, deadline=0.05, local=serving_models.neo_hookean) as late,
    ):
        work = busy.submit(probes(LOCAL.spec, 1600, 0.05), None, 1.0)
        start = time.monotonic()
        assert_right(late.evaluate(GRADIENT, None, 1.0))
        assert time.monotonic() - start < 0.4
        assert late.ledger.counts["server/missed deadlines"] == 1
        expected = LOCAL.evaluate(probes(LOCAL.spec, 1600, 0.05), None, 1.0)
        np.testing.assert_allclose(busy.collect(work).flux, expected.flux, rtol=1e-13)
        assert "server/losses" not in busy.ledger.counts


def test_requests_whose_time_is_over_are_not_evaluated(server):
    with server.surrogate(SLOW) as busy:
        work = busy.submit(probes(LOCAL.spec, 640, 0.05), None, 1.0)
        before = server.status()["models"][0]
        link = Link(server.address, Wanted(SLOW), 10.0, 10.0)
        link.ring(Request(Kind.EVALUATE, 1, 0, 32, 1, 0, 1.0, time.monotonic_ns() + 1_000_000))
        assert link.reply().code == Code.EXPIRED
        link.close()
        busy.collect(work)
        after = server.status()["models"][0]
    assert after["expired"] == before["expired"] + 1
    assert after["points"] <= before["points"] + 640


def test_only_what_is_late_is_answered_elsewhere():
    """Two evaluations under way: the time of the first is over, the second is sent again and answered in time."""
    with running(SLOW) as server, server.surrogate(SLOW, deadline=1.5, local=serving_models.neo_hookean) as remote:
        processes = (server.process.pid, server.pid)
        with stopped(*processes):
            first = remote.submit(GRADIENT, None, 1.0)
            time.sleep(1.2)
            second = remote.submit(GRADIENT, None, 1.0)
            timer = threading.Timer(0.4, resume, (processes,))
            timer.start()
            assert_right(remote.collect(first))
            timer.join()
            assert_right(remote.collect(second))
        counts = remote.ledger.counts
        assert counts["server/missed deadlines"] == 1
        assert counts["server/local points"] == len(GRADIENT)


def test_a_deadline_is_a_time(server):
    with pytest.raises(ContractError, match="deadline must be a time above 0 s"):
        server.surrogate(deadline=0.0)


# ---- started on demand -----------------------------------------------------------------------------------------------


def test_started_by_the_first_client_and_stopped_with_the_last(monkeypatch):
    monkeypatch.setattr("coupling.serving.lookup.IDLE", 0.2)
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with node_of_its_own():
        with RemoteSurrogate(NEO_HOOKEAN, device="cpu") as first, RemoteSurrogate(NEO_HOOKEAN, device="cpu") as second:
            assert_right(first.evaluate(GRADIENT, None, 1.0))
            pid = second.server
            assert pid == first.server
            assert os.getsid(pid) != os.getsid(0)
            assert b"OMPI_" not in Path(f"/proc/{pid}/environ").read_bytes()
        wait_for(lambda: not alive(pid), timeout=5.0)
        wait_for(lambda: not os.path.exists(node_address("cpu")), timeout=5.0)


def test_a_socket_left_by_a_crashed_run_is_replaced():
    with node_of_its_own(), RemoteSurrogate(NEO_HOOKEAN, device="cpu") as remote:
        supervisor = int(Path(f"/proc/{remote.server}/stat").read_text().rpartition(")")[2].split()[1])
        kill(supervisor)
        wait_for(lambda: not alive(supervisor))
        assert os.path.exists(node_address("cpu"))
        assert_right(remote.evaluate(GRADIENT, None, 1.0))
        assert remote.ledger.counts["server/losses"] == 1


def test_many_at_once_start_one():
    script = (
        "from coupling.serving import RemoteSurrogate\n"
        f"with RemoteSurrogate({NEO_HOOKEAN!r}, device='cpu') as r: print(r.server)\n"
    )
    with node_of_its_own():
        processes = [
            subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)
        ]
        pids = {process.communicate(timeout=30)[0].strip() for process in processes}
    assert len(pids) == 1
    assert pids != {""}


def test_a_model_that_cannot_be_loaded_says_so_on_demand():
    with node_of_its_own(), pytest.raises(ServerRefusedError, match="cannot load"):
        RemoteSurrogate("tests.nowhere:nothing", device="cpu")
