"""What all benchmarks share: time of a call or a command, memory of a process with its children, and the machine."""

import os
import platform
import statistics
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
_EVERY = 0.2  # seconds between two looks at the memory


class PeakMemory:
    """The largest memory of a process and its children while the block runs, in MiB.

    Proportional set size: a page that two processes share counts once.
    """

    def __init__(self, pid: int | None = None) -> None:
        self.process, self.peak, self._over = psutil.Process(pid), 0.0, threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self.peak = self._now()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._over.wait(_EVERY):
            self.peak = max(self.peak, self._now())

    def _now(self) -> float:
        held = 0
        try:
            for process in [self.process, *self.process.children(recursive=True)]:
                try:
                    held += process.memory_full_info().pss
                except psutil.Error:
                    continue  # it ended while we looked
        except psutil.Error:
            pass
        return held / 2**20


def allocated(call: Callable[[], Any]) -> float:
    """MiB that Python and NumPy had allocated at the worst moment, above what there was before."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak


def command(arguments: Sequence[str], cwd: Path, env: Mapping[str, str]) -> dict[str, float]:
    """Run a command to its end: seconds, and its peak memory in MiB.

    Raises:
        SystemExit: it failed (shows the end of what it said).
    """
    start = time.perf_counter()
    running = subprocess.Popen(
        arguments, cwd=cwd, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with PeakMemory(running.pid) as memory:
        said, _ = running.communicate()
    if running.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{said[-2000:]}")
    return {"seconds": round(time.perf_counter() - start, 2), "peak_mib": round(memory.peak)}


def alternately(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call, in ``rounds`` rounds in which each has its turn: a slow moment of the machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, and the spread from the fastest to the slowest."""
    shown = {"median": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
    return {"runs": len(seconds), **{name: float(f"{value:.4g}") for name, value in shown.items()}}


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        if (info.exists())
        else [platform.processor()]
    )
    return {
        "processor": names[0],
        "cores": len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
