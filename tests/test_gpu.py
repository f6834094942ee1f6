"""Evaluation on a GPU. On the CPU the same code runs, without what is particular to CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from coupling import Response, Status
from coupling.errors import ModelError
from coupling.serving import RemoteSurrogate, ask
from coupling.serving.gpus import usable_gpus, visible_gpus
from coupling.serving.locality import own_device
from coupling.serving.models import prepare
from coupling.serving.segment import Layout, create
from coupling.serving.starting import server_environment
from surrogates import EnergyNetwork, EnergySurrogate, fit_polynomial, load_model, save_model, train_energy_network
from surrogates.device_evaluation import chunks
from surrogates.model_card import Float32Errors
from tests.serving_processes import NEO_HOOKEAN, node_of_its_own, running
from tests.slow_queues import SlowQueues
from tests.surrogate_cases import (
    TORCH,
    neo_hookean_data,
    random_network,
    random_polynomial,
    random_stretches,
)
from tests.test_energy_network import surrogate_of

CUDA = pytest.param(
    "cuda:0",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")],
)
on_devices = pytest.mark.parametrize("device", [TORCH, CUDA])
on_gpu = pytest.mark.parametrize("device", [CUDA])
CHUNK = 512
NAMES = ("flux", "tangent", "status", "uncertainty", "energy")


def potential_of(family, k, device):
    return random_network((k, 16, 16), device=device) if family == "network" else random_polynomial(6, k, 0, device)


def surrogates(family, k, device):
    """On the device, and on the CPU by NumPy."""
    ours, host = (surrogate_of(potential_of(family, k, where)) for where in (device, "cpu"))
    return EnergySurrogate(ours.potential, ours.card, chunk=CHUNK), host


def stretches(k, n):
    """Most of them good; some outside the range, indefinite, not finite."""
    U = random_stretches(k, n)
    for row, wrong in ((0, np.nan), (1, np.inf), (3, -1.0), (6, 0.0), (7, 3.0), (9, 1e200)):
        U[row::11, row % k] = wrong
    return U


def assert_same(ours, exact, rtol=1e-12):
    for name in NAMES:
        mine, expected = getattr(ours, name), getattr(exact, name)
        finite = expected[np.isfinite(expected)]
        scale = np.abs(finite).max() if finite.size else 0.0
        np.testing.assert_allclose(mine, expected, rtol=0, atol=rtol * scale, err_msg=name)


@on_devices
@pytest.mark.parametrize("family", ["network", "polynomial"])
@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.filterwarnings("error")
def test_every_number_of_points_gets_the_answers_of_the_cpu(family, k, device):
    ours, host = surrogates(family, k, device)
    for n in (0, 1, 63, 64, 65, 511, 512, 513, 1025, 3000):
        U = stretches(k, n)
        U.flags.writeable = False
        assert_same(ours.evaluate(U, None, 0.0), host.evaluate(U, None, 0.0))


@on_devices
def test_all_statuses_occur(device):
    ours, _ = surrogates("network", 3, device)
    assert set(ours.evaluate(stretches(3, 200), None, 0.0).status) == {
        Status.OK,
        Status.OUTSIDE_RANGE,
        Status.INADMISSIBLE,
    }


def segments(spec, count):
    """Shared memory as clients make it, every byte poisoned."""
    made = []
    for _ in range(count):
        segment, descriptor = create(Layout(spec.k, spec.m, 0, 2, 1000))
        os.close(descriptor)
        for slot in segment.slots:
            for array in (slot.flux, slot.tangent, slot.uncertainty, slot.energy, slot.status):
                array.fill(77)
        made.append(segment)
    return made


@on_devices
@pytest.mark.parametrize("pinned", ["all", "some", "none"])
def test_rows_here_and_there_in_shared_memory(device, pinned):
    """Results go to their rows and nowhere else, from and to locked memory as from and to any other."""
    ours, host = surrogates("network", 3, device)
    evaluation, shared = ours.on_device, segments(ours.spec, 3)
    unpin = [evaluation.pin(s.memory) for s in shared[: {"all": 3, "some": 2, "none": 0}[pinned]]]
    parts = [(0, 0, 5, 900), (1, 1, 0, 1000), (2, 0, 999, 1000), (1, 0, 1, 2), (2, 1, 300, 301), (0, 1, 0, 640)]
    for _ in range(3):
        rows = []
        for number, (segment, slot, start, stop) in enumerate(parts):
            s = shared[segment].slots[slot]
            s.gradient[start:stop] = np.roll(stretches(3, stop - start), number, axis=0)
            part = slice(start, stop)
            answer = Response(s.flux[part], s.tangent[part], s.status[part], None, s.uncertainty[part], s.energy[part])
            rows.append((s.gradient[part], answer))
        evaluation.evaluate_into(*zip(*rows, strict=True))
        for gradient, answer in rows:
            assert_same(answer, host.evaluate(gradient, None, 0.0))
        assert (shared[0].slots[0].flux[:5] == 77).all() and (shared[0].slots[0].tangent[900:] == 77).all()
        assert (shared[2].slots[1].status[:300] == 77).all() and (shared[2].slots[0].energy[:999] == 77).all()
    for undo in unpin:
        undo()
        undo()


@pytest.mark.parametrize("lockable", [False, True])
def test_nothing_is_used_before_it_is_there(lockable, monkeypatch):
    """Queues that work late and at odd times: only what the evaluation waits for is done in order."""
    queues = SlowQueues(lockable)
    monkeypatch.setattr("surrogates.device_evaluation.queues_of", lambda torch, device: queues)
    host = surrogate_of(random_network((3, 8)))
    evaluation = EnergySurrogate(random_network((3, 8), device=TORCH), host.card, chunk=100).on_device
    (shared,) = segments(host.spec, 1)
    evaluation.pin(shared.memory)
    s = shared.slots[0]
    for repeat in range(3):
        s.gradient[...] = np.roll(stretches(3, 1000), repeat, axis=0)
        for array in (s.flux, s.tangent, s.status, s.uncertainty, s.energy):
            array.fill(77)
        answer = Response(s.flux, s.tangent, s.status, None, s.uncertainty, s.energy)
        evaluation.evaluate_into([s.gradient], [answer])
        assert_same(answer, host.evaluate(s.gradient.copy(), None, 0.0))


@on_gpu
def test_memory_is_locked_until_it_is_let_go(device):
    evaluation = surrogates("network", 3, device)[0].on_device
    (shared,) = segments(surrogate_of(random_network((3, 4))).spec, 1)
    view = torch.from_numpy(shared.slots[1].flux)
    assert not view.is_pinned()
    unpin = evaluation.pin(shared.memory)
    assert view.is_pinned()
    assert evaluation.pin(shared.memory)() is None  # already locked: refused by CUDA, and no harm done
    assert view.is_pinned()
    unpin()
    assert not view.is_pinned()
    torch.ones(1, device=device).add_(1).item()  # no error is left behind


@on_gpu
def test_nothing_is_allocated_while_points_are_evaluated(device):
    ours, _ = surrogates("network", 3, device)
    ours.evaluate(random_stretches(3, 10), None, 0.0)
    before = torch.cuda.memory_allocated()
    for n in range(1, 3000, 61):
        ours.evaluate(random_stretches(3, n), None, 0.0)
    assert torch.cuda.memory_allocated() == before


class Hungry(EnergyNetwork):
    """A network for which memory suffices up to a number of points."""

    most = 600

    def evaluate(self, U, energy, flux, tangent):
        if len(U) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        super().evaluate(U, energy, flux, tangent)


@on_devices
def test_sizes_for_which_memory_does_not_suffice_are_left_out(device):
    host = surrogate_of(random_network((3, 8)))
    network = Hungry(random_network((3, 8)).weights, (3, 8), device)
    ours = EnergySurrogate(network, host.card)
    assert ours.on_device.chunk == 512
    assert_same(ours.evaluate(stretches(3, 2000), None, 0.0), host.evaluate(stretches(3, 2000), None, 0.0))
    network.most = 60
    with pytest.raises(ModelError, match="does not suffice for 64 points"):
        EnergySurrogate(network, host.card)


def test_after_an_error_the_next_evaluation_is_right():
    ours, host = surrogates("network", 3, TORCH)
    lane, calls = ours.on_device._lanes[1], list[int]()

    def fail_once():
        if not calls:
            calls.append(1)
            raise RuntimeError("launch failed")
        work()

    work, lane.work[CHUNK] = lane.work[CHUNK], fail_once
    with pytest.raises(RuntimeError, match="launch failed"):
        ours.evaluate(stretches(3, 2000), None, 0.0)
    assert_same(ours.evaluate(stretches(3, 2000), None, 0.0), host.evaluate(stretches(3, 2000), None, 0.0))


@pytest.mark.parametrize("sizes", [[], [0], [5], [10, 10], [3, 0, 30, 1, 6], [9, 1, 1, 9]])
def test_chunks_keep_every_row_in_order(sizes):
    numbers = np.arange(float(sum(sizes)))
    parts = np.split(numbers, np.cumsum(sizes)[:-1]) if sizes else []
    rows = [(p[:, None], Response(p[:, None], p[:, None, None], p.astype(np.int8), None, p, p)) for p in parts]
    found = [[len(gradient) for gradient, _ in chunk] for chunk in chunks(rows, 10)]
    assert all(sum(chunk) == 10 for chunk in found[:-1]) and sum(map(sum, found)) == len(numbers)
    order = [gradient.ravel() for chunk in chunks(rows, 10) for gradient, _ in chunk]
    assert np.array_equal(np.concatenate(order) if order else numbers, numbers)
    assert all(r.energy.base is not None for chunk in chunks(rows, 10) for _, r in chunk)


# ---- float32 ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small network, whose errors dwarf those of float32, and a polynomial that is better than float32 can be."""
    folder, data = tmp_path_factory.mktemp("models"), neo_hookean_data(300)
    save_model(train_energy_network(data, hidden=(6,), max_iterations=12, progress=False), folder / "network")
    save_model(fit_polynomial(data, degree=10), folder / "polynomial")
    return folder


@pytest.mark.parametrize("device", ["cpu", TORCH, CUDA])
def test_in_float32_a_model_errs_as_its_card_says(models, device):
    double, single = (load_model(models / "network", device, precision) for precision in ("float64", "float32"))
    assert single.card == double.card and single.card.allows_float32
    U = random_stretches(3, 2000)
    U = U[double.card.box.contains(U)]
    exact, ours = double.evaluate(U, None, 0.0), single.evaluate(U, None, 0.0)
    assert ours.flux.dtype == np.float64
    for name, most in vars(single.card.float32).items():
        one, other = (getattr(r, name.removesuffix("_max")).reshape(len(U), -1) for r in (ours, exact))
        error = np.linalg.norm(one - other, axis=1).max() / np.sqrt((other**2).sum(axis=1).mean())
        assert 0.05 * most < error < 20.0 * most, name


def test_in_float32_only_where_the_card_allows_it(models):
    card = load_model(models / "polynomial").card
    assert not card.allows_float32
    with pytest.raises(ModelError, match="has to be evaluated in float64: Float32Errors"):
        load_model(models / "polynomial", precision="float32")
    assert replace(card, float32=Float32Errors(0.0, 0.0, 0.0)).allows_float32
    for name in ("energy_max", "flux_max", "tangent_max"):
        most = 0.1 * getattr(card.errors, name)
        for share, allowed in ((1.0, True), (1.1, False)):
            measured = replace(Float32Errors(0.0, 0.0, 0.0), **{name: share * most})
            assert replace(card, float32=measured).allows_float32 == allowed


def test_nobody_has_measured_it(models, tmp_path):
    old = load_model(models / "network")
    assert isinstance(old, EnergySurrogate)
    save_model(EnergySurrogate(old.potential, replace(old.card, float32=None)), tmp_path / "old")
    with pytest.raises(ModelError, match="nobody has measured"):
        load_model(tmp_path / "old", precision="float32")


# ---- the server ------------------------------------------------------------------------------------------------------


@on_devices
def test_a_server_evaluates_in_the_memory_of_its_clients(models, device):
    local = load_model(models / "network")
    with running(str(models / "network"), device=device) as server:
        clients = [server.surrogate(models / "network") for _ in range(3)]
        gradients = [stretches(3, n) for n in (70_000, 10, 3000)]
        for _ in range(2):
            tickets = [c.submit(g, None, 1.0) for c, g in zip(clients, gradients, strict=True)]
            for client, ticket, gradient in zip(clients, tickets, gradients, strict=True):
                assert_same(client.collect(ticket), local.evaluate(gradient, None, 1.0))
        assert clients[0]._exchange.link.segment.layout.slot_bytes > 1 << 21
        clients[0].close()
        assert_same(clients[1].evaluate(gradients[1], None, 1.0), local.evaluate(gradients[1], None, 1.0))
        for client in clients[1:]:
            client.close()
        assert server.status()["device"] == device


@on_devices
def test_a_server_in_float32(models, device):
    local = load_model(models / "network", precision="float32")
    with running(str(models / "network"), device=device, precision="float32") as server:
        with server.surrogate(models / "network") as remote:
            U = stretches(3, 500)
            assert_same(remote.evaluate(U, None, 1.0), local.evaluate(U, None, 1.0), rtol=1e-5)
        assert server.status()["precision"] == "float32"


@on_gpu
def test_versions_leave_no_memory_of_the_device_behind(device, tmp_path):
    folder, free = tmp_path / "model", []
    for number in range(30):
        save_model(surrogate_of(random_network((3, 32, 32), seed=number)), folder)
        prepare(str(folder), number, device)
        torch.cuda.synchronize()
        free.append(torch.cuda.mem_get_info()[0])
    assert free[5] - free[-1] < 256 << 20


@on_gpu
@pytest.mark.parametrize("order", [1, -1])
def test_gpus_have_the_numbers_that_they_have_in_a_server(device, order, monkeypatch):
    there = usable_gpus()
    if order < 0:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, reversed(range(len(there))))))
    script = (
        "import torch\n"
        "for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count())):\n"
        "    known = hasattr(p, 'pci_bus_id')\n"
        "    print(f'{p.pci_domain_id:04x}:{p.pci_bus_id:02x}:{p.pci_device_id:02x}.0' if known else 'unknown')\n"
    )
    line, environment = [sys.executable, "-c", script], server_environment(1)
    found = subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout.split()
    ours = [gpu.name for gpu in visible_gpus()]
    assert len(ours) == len(found)
    if "unknown" in found or not all(":" in name for name in ours):
        pytest.skip("torch or the driver does not tell the GPUs' addresses")
    assert ours == found


@on_gpu
def test_a_client_is_served_by_its_own_gpu(device):
    with node_of_its_own(), RemoteSurrogate(NEO_HOOKEAN) as remote:
        state = ask(remote.address, {"want": "status"})["status"]
        assert state["device"] == own_device().replace("auto", "cuda")
