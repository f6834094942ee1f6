"""Queues of a device as threads that take their time: what is not waited for has not happened yet."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from queue import Queue

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Line:
    """Work that is done one after the other, some time later."""

    def __init__(self, seed):
        self._work: Queue[Callable[[], object]] = Queue()
        self._random = random.Random(seed)
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, work):
        self._work.put(work)

    def settle(self):
        self._work.join()

    def _run(self):
        while True:
            work = self._work.get()
            time.sleep(self._random.choice((0.0, 1e-4, 2e-3)))
            work()
            self._work.task_done()


class Deferred(TorchDispatchMode):
    """Copies between tensors are put into a line."""

    def __init__(self, line):
        super().__init__()
        self._line = line

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.copy_.default:
            self._line.put(lambda: func(*args))
            return args[0]
        return func(*args, **(kwargs or {}))


class Event:
    """One that is recorded in one line and waited for in another."""

    def __init__(self, queues):
        self._queues, self._happened = queues, threading.Event()

    def record(self):
        self._happened = threading.Event()
        self._queues.current.put(self._happened.set)

    def wait(self):
        self._queues.current.put(self._happened.wait)

    def synchronize(self):
        assert self._happened.wait(20.0)


class SlowQueues:
    """:class:`surrogates.device_queues.Queues` of three lines."""

    def __init__(self, lockable):
        self.lines, self._lockable = [Line(seed) for seed in range(3)], lockable
        self.current = self.lines[1]

    def upload(self):
        return self._into(self.lines[0])

    def compute(self):
        return self._into(self.lines[1])

    def download(self):
        return self._into(self.lines[2])

    @contextmanager
    def _into(self, line):
        self.current = line
        with Deferred(line):
            yield

    def event(self):
        return Event(self)

    def staging(self, like):
        return torch.full(like.shape, 99, dtype=like.dtype)

    def recorded(self, work):
        return lambda: self.lines[1].put(work)

    def settle(self):
        for line in self.lines:
            line.settle()

    def lock(self, address, size):
        return (lambda: None) if self._lockable else None
