"""The GPUs and NUMA nodes of this machine, as Linux and NVIDIA's driver show them in files.

Reading them takes neither torch nor CUDA, and wakes no GPU: every rank can afford it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
"""Where ``/dev``, ``/proc`` and ``/sys`` are."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Args:
        name: its PCI address; where that is unknown its device file, or what CUDA_VISIBLE_DEVICES calls it.
        node: NUMA node that it is attached to, None where unknown.
        uuid: the driver's name for it, empty where unknown.
    """

    name: str
    node: int | None = None
    uuid: str = ""


@dataclass(frozen=True)
class NumaNode:
    """A NUMA node: its cores, and its distances to all nodes (10 to itself) as the firmware states them (ACPI SLIT)."""

    number: int
    cores: frozenset[int]
    distances: Mapping[int, int]


def visible_gpus() -> list[Gpu]:
    """The GPUs that CUDA shows this process, in the order of their numbers where CUDA_DEVICE_ORDER is PCI_BUS_ID."""
    return chosen(usable_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def usable_gpus() -> list[Gpu]:
    """All GPUs that this process may open, in the order of their PCI addresses, as nvidia-smi counts them."""
    files = sorted((ROOT / "proc/driver/nvidia/gpus").glob("*/information"), key=lambda f: (len(f.parts[-2]), f))
    devices = sorted((ROOT / "dev").glob("nvidia[0-9]*"), key=_number)
    described = [gpu for file in files if (gpu := _described(file)) is not None]
    return described or [Gpu(device.name) for device in devices if _may_open(device)]


def chosen(gpus: Sequence[Gpu], listed: str | None) -> list[Gpu]:
    """Those of the GPUs that a value of CUDA_VISIBLE_DEVICES lists, up to the first entry that is none.

    Of the parts of GPUs ("MIG-…") a process sees one only. Source: CUDA Programming Guide, "CUDA Environment
    Variables"; NVIDIA Multi-Instance GPU User Guide, "CUDA Device Enumeration".
    """
    if listed is None:
        return list(gpus)
    found: list[Gpu] = []
    for entry in (text.strip() for text in listed.split(",")):
        gpu = _listed(gpus, entry)
        if gpu is None:
            break
        found.append(gpu)
        if entry.startswith("MIG"):
            break
    return found[: len(gpus)]


def numa_nodes() -> list[NumaNode]:
    """The NUMA nodes, none where Linux shows none."""
    folders = sorted((ROOT / "sys/devices/system/node").glob("node[0-9]*"), key=_number)
    numbers = [_number(folder) for folder in folders]
    return [
        NumaNode(number, _cores(_text(folder / "cpulist")), _distances(number, numbers, _integers(folder / "distance")))
        for number, folder in zip(numbers, folders, strict=True)
    ]


def _described(file: Path) -> Gpu | None:
    """The GPU of a file of the driver, None where this process may not use it."""
    values = dict(re.findall(r"^([\w ]+):\s*(.*?)\s*$", _text(file), re.MULTILINE))
    minor = values.get("Device Minor", "")
    excluded = "Yes" in (values.get("GPU Excluded"), values.get("Blacklisted"))
    if excluded or (minor and not _may_open(ROOT / f"dev/nvidia{minor}")):
        return None
    name, uuid = file.parent.name, values.get("GPU UUID", "")
    node = next(iter(_integers(ROOT / f"sys/bus/pci/devices/{name}/numa_node")), -1)
    return Gpu(name, node if node >= 0 else None, "" if "?" in uuid else uuid)


def _listed(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    if entry.startswith("GPU-"):
        return next((gpu for gpu in gpus if gpu.uuid.startswith(entry)), Gpu(entry))
    return Gpu(entry) if entry.startswith("MIG-") else None


def _distances(own: int, numbers: Sequence[int], said: Sequence[int]) -> dict[int, int]:
    """Distances from a node to all, Linux's defaults where it does not say them."""
    if len(said) != len(numbers):
        said = [10 if number == own else 20 for number in numbers]
    return dict(zip(numbers, said, strict=True))


def _may_open(device: Path) -> bool:
    """Whether permissions and the control group allow it."""
    return os.access(device, os.R_OK | os.W_OK)


def _number(path: Path) -> int:
    return int(re.sub(r"\D", "", path.name))


def _cores(text: str) -> frozenset[int]:
    """The cores of a list such as "0-3,8"."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", text)
    return frozenset(core for first, last in ranges for core in range(int(first), int(last or first) + 1))


def _integers(file: Path) -> list[int]:
    return [int(word) for word in _text(file).split()]


def _text(file: Path) -> str:
    """What the file says, nothing where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
