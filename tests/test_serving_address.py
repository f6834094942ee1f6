"""Where servers listen, and who may talk to them."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import pytest

from coupling.errors import ServerAddressError, ServerError
from coupling.serving import RemoteSurrogate, ask
from coupling.serving.address import listen, lock, node_address, runtime_folder
from coupling.serving.frames import pack_json
from coupling.serving.gpus import Gpu, chosen
from coupling.serving.starting import ensure_running
from tests.serving_processes import NEO_HOOKEAN, SLOW, alive, node_of_its_own, running, short_folder, wait_for

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def server():
    with running(NEO_HOOKEAN, SLOW) as server:
        yield server


def test_the_socket_is_its_owners_alone(server):
    assert os.stat(server.address).st_mode & 0o777 == 0o600


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_is_sent_away(server):
    os.chmod(server.address, 0o666)
    os.chmod(os.path.dirname(server.address), 0o755)
    child = os.fork()
    if not child:
        os.setuid(65534)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(server.address)
            sock.send(pack_json({"protocol": 1, "want": "status"}))
            os._exit(1 if sock.recv(4096) else 0)
        except OSError:
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.chmod(server.address, 0o600)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not():
    with short_folder() as folder:
        address = str(folder / "s")
        first = lock(address)
        listen(address).close()
        os.close(first)
        assert os.path.exists(address)
        with running() as server:
            assert lock(server.address) is None
        held = lock(address)
        listen(address).close()
        os.close(held)


@pytest.mark.parametrize("address", ["/proc/s.sock", "/nowhere/at/all.sock", "/tmp/" + 110 * "x", "", "@"])
def test_addresses_where_nothing_can_listen(address):
    with pytest.raises(ServerAddressError, match="give a path|use a shorter path"):
        os.close(lock(address))
        listen(address)


def test_a_folder_that_others_can_enter_is_refused(monkeypatch):
    with short_folder() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        assert runtime_folder() == folder / "twoscale"
        (folder / "twoscale").chmod(0o755)
        with pytest.raises(ServerAddressError, match="nobody else can enter"):
            runtime_folder()


@pytest.mark.parametrize("folder", ["/proc/self", "/dev/null", "long"])
def test_where_no_socket_can_be_the_client_says_what_to_do(folder, monkeypatch, tmp_path):
    if folder == "long":
        folder = str(tmp_path / (120 * "x"))
        os.mkdir(folder)
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    monkeypatch.setattr("tempfile.tempdir", "/proc/self")  # where a user who may not write goes instead
    monkeypatch.delenv("TWOSCALE_SERVER", raising=False)
    with pytest.raises(ServerAddressError, match="set XDG_RUNTIME_DIR|use a shorter path"):
        RemoteSurrogate(NEO_HOOKEAN, device="cpu")


def test_processes_that_see_other_gpus_have_another_server(monkeypatch):
    """Where nothing is known of the GPUs."""
    with short_folder() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        monkeypatch.setattr("coupling.serving.gpus.ROOT", folder)
        found = {}
        for visible in ("", "0", "1", "GPU-8f6d"):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
            found[visible] = [node_address(device) for device in ("cuda:0", "auto", "cpu")]
        assert len({address for addresses in found.values() for address in addresses}) == 9
        assert len({addresses[2] for addresses in found.values()}) == 1


@pytest.mark.parametrize(
    ("listed", "count"), [(None, 4), ("1", 1), ("0, 3,1", 3), ("", 0), ("-1", 0), ("GPU-1", 1), ("0,1,2,3,4,5", 4)]
)
def test_gpus_that_are_hidden_are_not_counted(listed, count):
    assert len(chosen([Gpu(f"nvidia{number}") for number in range(4)], listed)) == count


def test_abstract_addresses_work():
    with running() as server:
        name = f"@twoscale-test-{os.getpid()}"
        settings = server.settings
        assert settings.address != name
        ensure_running(replace(settings, address=name, idle=0.5, log=None), 20.0)
        pid = ask(name, {"want": "status"})["status"]["pid"]
        wait_for(lambda: not alive(pid))
        with pytest.raises(ServerError):
            ask(name, {"want": "status"})


def test_a_server_started_on_demand_is_not_bound_to_the_cores_of_the_rank_that_started_it():
    cores = os.sched_getaffinity(0)
    with node_of_its_own():
        os.sched_setaffinity(0, {min(cores)})
        try:
            with RemoteSurrogate(NEO_HOOKEAN, device="cpu") as remote:
                assert cores <= os.sched_getaffinity(remote.server)
        finally:
            os.sched_setaffinity(0, cores)
