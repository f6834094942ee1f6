"""The remote surrogate is the local one, seen from elsewhere."""

from __future__ import annotations

import os
from contextlib import contextmanager

import numpy as np
import pytest

from coupling import AcceleratedClosure, RangeGate, Status
from coupling.closed_forms import StretchNeoHookean
from coupling.conformance import assert_conforms
from coupling.errors import ContractError, ServerAddressError, ServerError, ServerRefusedError, ServerUnavailableError
from coupling.serving import CollectiveSurrogate, RemoteSurrogate
from coupling.serving.evaluation import Part, halves
from coupling.serving.models import probes
from tests import serving_models
from tests.serving_processes import MODELS, NEO_HOOKEAN, SLOW, running

pytestmark = pytest.mark.timeout(60)
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
LOCAL = serving_models.neo_hookean()


@pytest.fixture(scope="module")
def server():
    names = ("neo_hookean", "standard_linear_solid", "Slow", "Sensitive", "linear_elastic")
    with running(*(MODELS + name for name in names)) as server:
        yield server


@pytest.fixture
def remote(server):
    with server.surrogate() as surrogate:
        yield surrogate


def assert_same(one, other):
    for name in ("flux", "tangent", "status", "state", "uncertainty", "energy"):
        mine, its = getattr(one, name), getattr(other, name)
        assert (mine is None) == (its is None), name
        if mine is not None:
            np.testing.assert_array_equal(mine, its, err_msg=name)


def test_conforms(remote):
    assert_conforms(remote)


def test_with_a_state_conforms(server):
    with server.surrogate(f"{MODELS}standard_linear_solid") as remote:
        assert_conforms(remote)


@pytest.mark.parametrize("n", [0, 1, 64, 255, 256, 257, 1000, 4096, 4097, 50_000])
def test_every_bit_is_the_local_one(remote, n):
    gradient = probes(LOCAL.spec, n, 0.05)
    local = [LOCAL.evaluate(gradient[a : a + 256], None, 1.0) for a in range(0, n, 256)]
    answer = remote.evaluate(gradient, None, 1.0)
    assert len(answer.flux) == n
    for i, part in enumerate(local):
        rows = slice(256 * i, 256 * (i + 1))
        np.testing.assert_array_equal(answer.flux[rows], part.flux)
        np.testing.assert_array_equal(answer.tangent[rows], part.tangent)
        np.testing.assert_array_equal(answer.energy[rows], part.energy)
        np.testing.assert_array_equal(answer.uncertainty[rows], part.uncertainty)


def test_state_hint_and_dt_arrive(server):
    local = serving_models.standard_linear_solid()
    rng = np.random.default_rng(1)
    n = 20_000
    gradient, state, hint = (rng.uniform(-0.1, 0.1, (n, 3)) for _ in range(3))
    with server.surrogate(f"{MODELS}standard_linear_solid") as remote:
        np.testing.assert_array_equal(remote.initial_state(5), local.initial_state(5))
        for dt in (0.1, 1.0):
            answer, expected = remote.evaluate(gradient, state, dt, hint), local.evaluate(gradient, state, dt, hint)
            np.testing.assert_allclose(answer.flux, expected.flux, rtol=1e-14)
            np.testing.assert_array_equal(answer.state, expected.state)


def test_points_that_cannot_be_evaluated_are_values(remote):
    gradient = probes(LOCAL.spec, 3)
    gradient[0], gradient[1] = np.nan, [3.0, 1.0, 0.0]
    status = remote.evaluate(gradient, None, 1.0).status
    assert status.tolist() == [Status.INADMISSIBLE, Status.OUTSIDE_RANGE, Status.OK]


def test_tickets_are_collected_in_any_order(remote):
    gradients = [probes(LOCAL.spec, n, 0.05) for n in (20_000, 10, 5000, 0, 70_000)]
    tickets = [remote.submit(g, None, 1.0) for g in gradients]
    answers = {i: remote.collect(tickets[i]) for i in (3, 1, 4, 0, 2)}
    for i, gradient in enumerate(gradients):
        np.testing.assert_allclose(answers[i].flux, LOCAL.evaluate(gradient, None, 1.0).flux, rtol=1e-13)


def test_work_goes_on_while_the_server_computes(server):
    with server.surrogate(SLOW) as remote:
        ticket = remote.submit(probes(LOCAL.spec, 640), None, 1.0)
        waiting = server.status()["queue"]["points"]
        flux = remote.collect(ticket).flux
    assert waiting > 320
    np.testing.assert_allclose(flux, LOCAL.evaluate(probes(LOCAL.spec, 640), None, 1.0).flux, rtol=1e-13)


def test_serves_an_accelerated_closure(remote):
    closure = AcceleratedClosure(StretchNeoHookean(1.0, 2.0), remote, gate=RangeGate())
    gradient = probes(LOCAL.spec, 10)
    gradient[0] = [3.0, 1.0, 0.0]
    answer = closure.evaluate(gradient, None, 1.0)
    assert answer.status.tolist() == [Status.FALLBACK] + [Status.OK] * 9


def test_a_model_that_raises_fails_alone(server):
    """Two clients in one batch: only the one at fault hears of it, and the other gets its answer."""
    name = f"{MODELS}Sensitive"
    with server.surrogate(name) as good, server.surrogate(name) as bad:
        wrong = probes(LOCAL.spec, 8)
        wrong[3, 0] = 4.0
        first = good.submit(probes(LOCAL.spec, 100), None, 1.0)
        at_fault, innocent = bad.submit(wrong, None, 1.0), good.submit(probes(LOCAL.spec, 8), None, 1.0)
        for ticket in (first, innocent):
            assert (good.collect(ticket).status == Status.OK).all()
        with pytest.raises(ServerError, match="U11 is larger than 3"):
            bad.collect(at_fault)
        assert bad.evaluate(probes(LOCAL.spec, 8), None, 1.0).status.tolist() == [0] * 8


def test_a_model_without_its_usual_results_fails(server):
    with server.surrogate(f"{MODELS}Moody") as remote:
        assert remote.evaluate(probes(LOCAL.spec, 2), None, 1.0).energy is not None
        with pytest.raises(ServerError, match="at some times and not at others"):
            remote.evaluate(probes(LOCAL.spec, 1), None, 1.0)


@pytest.mark.parametrize("name", ["Hungry", "HungryOnADevice"])
def test_where_memory_does_not_suffice_batches_are_halved(name):
    gradient = probes(LOCAL.spec, 2000, 0.05)
    expected = LOCAL.evaluate(gradient, None, 1.0)
    with running(MODELS + name) as server, server.surrogate(MODELS + name) as remote:
        for _ in range(3):
            answer = remote.evaluate(gradient, None, 1.0)
            np.testing.assert_allclose(answer.flux, expected.flux, rtol=1e-13)
            np.testing.assert_allclose(answer.tangent, expected.tangent, rtol=1e-13)
        (model,) = server.status()["models"]
    assert model["failed"] == 0
    assert "<16" in model["batch_sizes"]


def test_halves_keep_every_row():
    parts = [Part(None, 0, 5), Part(None, 3, 4), Part(None, 0, 7)]
    for points in range(14):
        first, second = halves(parts, points)
        rows = [(p.start, p.stop) for p in first], [(p.start, p.stop) for p in second]
        assert [sum(b - a for a, b in r) for r in rows] == [min(points, 13), max(0, 13 - points)]
        assert all(b > a for r in rows for a, b in r)


def test_large_requests_do_not_starve_small_ones(server):
    """100 chunks of 10 ms are under way; 8 points of another client wait for two or three of them."""
    with server.surrogate(SLOW) as large, server.surrogate(SLOW) as small:
        ticket = large.submit(probes(LOCAL.spec, 3200), None, 1.0)
        small.evaluate(probes(LOCAL.spec, 8), None, 1.0)
        left = server.status()["queue"]["points"]
        large.collect(ticket)
    assert left > 2500


def test_wrong_arrays_are_refused_before_they_are_sent(remote):
    with pytest.raises(ContractError, match="must be float64"):
        remote.evaluate(probes(LOCAL.spec, 3).astype(np.float32), None, 1.0)
    with pytest.raises(ContractError, match="must have shape"):
        remote.evaluate(np.zeros((3, 4)), None, 1.0)


def test_unknown_model(server):
    with pytest.raises(ServerRefusedError, match=r"no model 'glass' here.*neo_hookean"):
        server.surrogate("glass")


def test_a_model_that_cannot_be_loaded(server):
    with pytest.raises(ServerRefusedError, match=r"cannot load tests\.serving_models:Marble"):
        server.surrogate(f"{MODELS}Marble")
    with pytest.raises(ServerRefusedError, match="no usable answer|not finite"):
        server.surrogate(f"{MODELS}Useless")


def test_a_model_the_server_does_not_have_is_loaded(server):
    with server.surrogate(f"{MODELS}stiffer") as remote:
        expected = serving_models.stiffer().evaluate(probes(LOCAL.spec, 5), None, 1.0)
        assert_same(remote.evaluate(probes(LOCAL.spec, 5), None, 1.0), expected)


def test_version_mismatch(server):
    with pytest.raises(ServerRefusedError, match="is not served in version 7; there are: 1"):
        server.surrogate(version=7)


def test_several_models_at_once(server):
    names = ("neo_hookean", "linear_elastic")
    surrogates = [server.surrogate(MODELS + name) for name in names]
    tickets = [s.submit(probes(s.spec, 5000), None, 1.0) for s in surrogates]
    for name, surrogate, ticket in zip(names, surrogates, tickets, strict=True):
        local = getattr(serving_models, name)()
        expected = local.evaluate(probes(local.spec, 5000), None, 1.0)
        np.testing.assert_allclose(surrogate.collect(ticket).flux, expected.flux, rtol=1e-13, atol=1e-16)
        surrogate.close()


def test_no_server_at_an_explicit_address(tmp_path):
    with pytest.raises(ServerUnavailableError, match="no model server answers at @nobody-there"):
        RemoteSurrogate(NEO_HOOKEAN, address="@nobody-there")
    with pytest.raises(ServerAddressError, match="sockets allow 107"):
        RemoteSurrogate(NEO_HOOKEAN, address="/tmp/" + 120 * "x")


def test_address_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("TWOSCALE_SERVER", server.address)
    with RemoteSurrogate(NEO_HOOKEAN) as remote:
        assert remote.address == server.address
        assert_same(remote.evaluate(probes(LOCAL.spec, 5), None, 1.0), LOCAL.evaluate(probes(LOCAL.spec, 5), None, 1.0))


def test_collective_outcome(server):
    from mpi4py import MPI

    with server.surrogate(f"{MODELS}Sensitive") as inner:
        remote = CollectiveSurrogate(inner, MPI.COMM_SELF)
        assert remote.evaluate(probes(LOCAL.spec, 5), None, 1.0).status.tolist() == [0] * 5
        with pytest.raises(ServerError, match="U11"):
            remote.evaluate(np.full((1, 3), 4.0), None, 1.0)


# ---- results in shared memory ----------------------------------------------------------------------------------------


def test_results_that_are_kept_stay_what_they_are(remote):
    """More calls than there are slots; whatever is left of a result, if only a view, keeps its memory."""
    gradients = [probes(LOCAL.spec, 5000, 0.01 * number) for number in range(1, 21)]
    whole, views = [], []
    for gradient in gradients:
        whole.append(remote.evaluate(gradient, None, 1.0))
        views.append(remote.evaluate(gradient, None, 1.0).tangent[::7, 1])
    for gradient, answer, view in zip(gradients, whole, views, strict=True):
        expected = LOCAL.evaluate(gradient, None, 1.0)
        for name in ("flux", "tangent", "status", "uncertainty", "energy"):
            np.testing.assert_allclose(getattr(answer, name), getattr(expected, name), rtol=1e-13)
        np.testing.assert_array_equal(view, answer.tangent[::7, 1])


def test_memory_is_used_again_when_nobody_has_it(remote):
    gradient, memory = probes(LOCAL.spec, 5000), [slot.flux for slot in remote._exchange.link.segment.slots]

    def shared(answer):
        return any(np.shares_memory(answer.flux, flux) for flux in memory)

    kept = [remote.evaluate(gradient, None, 1.0) for _ in memory]
    assert {shared(answer) for answer in kept} == {True, False}
    assert not shared(remote.evaluate(gradient, None, 1.0))
    kept.clear()
    assert shared(remote.evaluate(gradient, None, 1.0))


def test_results_outlive_surrogate_and_server():
    with running(NEO_HOOKEAN) as server, server.surrogate() as remote:
        gradient = probes(LOCAL.spec, 5000)
        answer = remote.evaluate(gradient, None, 1.0)
    answer.flux[0] = 7.0
    np.testing.assert_allclose(answer.flux[1:], LOCAL.evaluate(gradient, None, 1.0).flux[1:], rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("n", [1, 300, 5000])
def test_a_network_writes_into_the_memory_of_its_clients(n):
    name, local = f"{MODELS}energy_network", serving_models.energy_network()
    gradient = probes(local.spec, n, 0.05)
    gradient[0], gradient[n // 2] = [-1.0, 1.0, 0.0], [2.0, 1.0, 0.0]
    expected = local.evaluate(gradient, None, 1.0)
    with running(name) as server, server.surrogate(name) as one, server.surrogate(name) as two:
        for clients in ([one], [one, two]):
            tickets = [client.submit(gradient, None, 1.0) for client in clients]
            for client, ticket in zip(clients, tickets, strict=True):
                answer = client.collect(ticket)
                for array in ("flux", "tangent", "status", "uncertainty", "energy"):
                    np.testing.assert_allclose(getattr(answer, array), getattr(expected, array), rtol=1e-12)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_a_class_that_changes_what_its_base_answers_is_asked_itself(device):
    """On the host and by the queues of a device."""
    name, local = f"{MODELS}corrected_network", serving_models.corrected_network()
    gradient = probes(local.spec, 300, 0.05)
    with running(name, device=device) as server, server.surrogate(name) as remote:
        np.testing.assert_allclose(
            remote.evaluate(gradient, None, 1.0).flux, local.evaluate(gradient, None, 1.0).flux, rtol=1e-11, atol=1e-13
        )


def test_a_server_with_much_to_do_is_not_taken_for_one_that_hangs(server):
    """Two seconds of work in one request, twice as long as the client waits for a sign of life."""
    with server.surrogate(SLOW, timeout=1.0) as remote:
        gradient = probes(LOCAL.spec, 6400)
        np.testing.assert_allclose(
            remote.evaluate(gradient, None, 1.0).flux, LOCAL.evaluate(gradient, None, 1.0).flux, rtol=1e-13, atol=1e-16
        )
        assert "server/losses" not in remote.ledger.counts


def test_what_is_refused_gives_back_its_own_slot_alone(remote):
    """The server names no slot where it says no; the first one is lent."""
    kept = remote.evaluate(probes(LOCAL.spec, 5000), None, 1.0)
    expected, link = kept.flux.copy(), remote._exchange.link
    link.version = 9
    with pytest.raises(ServerRefusedError, match="this client has version 1, not 9"):
        remote.evaluate(probes(LOCAL.spec, 5000, 0.05), None, 1.0)
    link.version = 1
    remote.evaluate(probes(LOCAL.spec, 5000, 0.05), None, 1.0)
    np.testing.assert_array_equal(kept.flux, expected)


def test_what_is_under_way_when_a_surrogate_is_closed_is_asked_again(server):
    with server.surrogate(SLOW) as remote:
        ticket = remote.submit(probes(LOCAL.spec, 320), None, 1.0)
    assert_same(remote.collect(ticket), LOCAL.evaluate(probes(LOCAL.spec, 320), None, 1.0))
    remote.close()


def test_an_answer_to_something_else_is_not_taken_for_the_first_ones(server):
    """The server cannot tell to what it is when it cannot read it."""
    with server.surrogate() as remote:
        remote._exchange.link._sock.send(b"x")
        gradient = probes(LOCAL.spec, 100)
        assert_same(remote.evaluate(gradient, None, 1.0), LOCAL.evaluate(gradient, None, 1.0))
        assert remote.ledger.counts["server/losses"] == 1


# ---- processes that fork ---------------------------------------------------------------------------------------------


@contextmanager
def in_a_child(action):
    """Whether the action is true in a child of this process, which does it beside the block."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if action() else 2
        finally:
            os._exit(code)
    yield
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@forks
def test_results_stay_what_they_are_in_a_child(remote):
    """The parent has dropped them, and asks for others."""
    kept = [remote.evaluate(probes(LOCAL.spec, 5000), None, 1.0)]
    expected, (dropped, drop) = kept[0].flux.copy(), os.pipe()
    with in_a_child(lambda: os.read(dropped, 1) and np.array_equal(kept[0].flux, expected)):
        kept.clear()
        for _ in range(10):
            remote.evaluate(probes(LOCAL.spec, 5000, 0.05), None, 1.0)
        os.write(drop, b"!")
    for end in (dropped, drop):
        os.close(end)


@forks
def test_a_child_asks_over_a_connection_of_its_own(remote):
    """Parent and child ask for different things at the same time, one of them from before."""
    gradients = [probes(LOCAL.spec, 3000, 0.01 * number) for number in (1, 2)]
    expected = [LOCAL.evaluate(gradient, None, 1.0).flux for gradient in gradients]
    ticket = remote.submit(gradients[0], None, 1.0)

    def right(number):
        fluxes = [
            remote.collect(ticket).flux,
            *(remote.evaluate(gradients[number], None, 1.0).flux for _ in range(200)),
        ]
        laws = [expected[0], *[expected[number]] * 200]
        return all(np.allclose(a, b, rtol=1e-13, atol=1e-16) for a, b in zip(fluxes, laws, strict=True))

    with in_a_child(lambda: right(1)):
        assert right(0)
    assert "server/losses" not in remote.ledger.counts
