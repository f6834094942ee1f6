"""Addresses of model servers: a path of a Unix socket, or ``@name`` in the abstract namespace of the machine.

Only processes of the same user talk to each other: the socket file is its owner's alone, and both ends ask the kernel
who the other is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import stat
import struct
import tempfile
from pathlib import Path

from coupling.errors import ServerAddressError, ServerUnavailableError
from coupling.serving.frames import PROTOCOL
from coupling.serving.gpus import visible_gpus

VARIABLE = "TWOSCALE_SERVER"
_FILE = f"server-{PROTOCOL}-{{}}.sock"
_LONGEST = 107
_BACKLOG = 1024


def node_address(device: str) -> str:
    """Address of this user's server for a device on this node, in a folder that only the user can enter.

    A GPU that is known has one server, whatever its number is for the process that asks: "cuda:0" where others are
    hidden (CUDA_VISIBLE_DEVICES) may be "cuda:3" elsewhere. What else is called the same by processes that see
    different GPUs may be different ones, and has servers of its own.

    Args:
        device: "auto", "cpu", "cuda:K", or "auto:K" for the server on demand of the GPU of that number.

    Raises:
        ServerAddressError: where there is no such folder and none can be made.
    """
    kind, _, number = device.partition(":")
    gpus = visible_gpus() if number.isdecimal() and kind != "cpu" else []
    if gpus and int(number) < len(gpus):
        return _in_runtime_folder(gpus[int(number)].name)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if device != "cpu" else ""
    seen = f"-{hashlib.sha256(visible.encode()).hexdigest()[:8]}" if visible else ""
    return _in_runtime_folder(f"{device.replace(':', '')}{seen}")


def addresses_of_node() -> list[str]:
    """Addresses at which this user's servers listen on this node, or have listened, by :func:`node_address`.

    Raises:
        ServerAddressError: as there.
    """
    return sorted(str(path) for path in runtime_folder().glob(_FILE.format("*")))


def _in_runtime_folder(name: str) -> str:
    return str(runtime_folder() / _FILE.format(name.replace("/", "-")))


def runtime_folder() -> Path:
    """``$XDG_RUNTIME_DIR/twoscale``, or ``twoscale-UID`` in the folder for temporary files.

    Raises:
        ServerAddressError: where it is somebody else's, or cannot be made.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and os.access(given, os.W_OK | os.X_OK):
        folder = Path(given) / "twoscale"
    else:
        folder = Path(tempfile.gettempdir()) / f"twoscale-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise ServerAddressError(
            f"no folder for the server's socket ({error}): set XDG_RUNTIME_DIR to one that you can write to"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ServerAddressError(
            f"{folder} must be a folder of yours that nobody else can enter (chmod 700): set XDG_RUNTIME_DIR to another"
        )
    return folder


def socket_name(address: str) -> str:
    """What the kernel calls the address.

    Raises:
        ServerAddressError: where it is empty or too long.
    """
    name = "\0" + address[1:] if address.startswith("@") else address
    length = len(os.fsencode(name))
    if length < 2 or length > _LONGEST:
        raise ServerAddressError(
            f"the socket's address {address!r} has {length} bytes, and sockets allow {_LONGEST}: use a shorter path, "
            f"or @NAME, which needs no file"
        )
    return name


def connect(address: str, timeout: float) -> socket.socket:
    """A socket connected to the server, on which sending and receiving give up after ``timeout`` seconds.

    Raises:
        ServerAddressError: for an address that is none, or a server of another user.
        ServerUnavailableError: where nobody listens.
    """
    name = socket_name(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        set_timeout(sock, timeout)
        sock.connect(name)
    except OSError as error:
        sock.close()
        raise ServerUnavailableError(f"no model server answers at {address}: {error.strerror}") from error
    if peer(sock)[1] != os.getuid():
        sock.close()
        raise ServerAddressError(f"the server at {address} belongs to another user: give the address of one of yours")
    return sock


def set_timeout(sock: socket.socket, timeout: float) -> None:
    """Have the kernel give up sending and receiving after so many seconds (of 1 µs or more: 0 means never)."""
    wait = struct.pack("ll", int(timeout), max(1, int(timeout % 1.0 * 1e6)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)


def peer(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid, uid


def listen(address: str) -> socket.socket:
    """A listening socket that only the user can connect to. A file left by a server that is gone is replaced.

    The caller holds :func:`lock`, so that nobody else can be listening there.

    Raises:
        ServerAddressError: where nothing can listen at that address.
    """
    name = socket_name(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        remove(address)
        sock.bind(name)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ServerAddressError(
            f"cannot listen at {address} ({error.strerror}): give a path in a folder that you can write to, or @NAME"
        ) from error
    finally:
        os.umask(before)
    return sock


def remove(address: str) -> None:
    """Remove the socket's file, if that is what is there."""
    path = Path(address)
    if not address.startswith("@") and path.is_socket():
        path.unlink(missing_ok=True)


def lock(address: str) -> int | None:
    """Descriptor of the lock that a server at this address holds as long as it lives, None where another holds it.

    Abstract addresses need none, the kernel gives them to one at a time: the descriptor is then of no file.

    Raises:
        ServerAddressError: where the file of the lock cannot be written.
    """
    if address.startswith("@"):
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    socket_name(address)
    try:
        descriptor = os.open(f"{address}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ServerAddressError(
            f"cannot write beside {address} ({error.strerror}): give a path in a folder that you can write to, or @NAME"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
