"""What is measured, and with what: CPU time, memory, written bytes, medians, and which core runs what."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median

_TICKS = os.sysconf("SC_CLK_TCK")
_STAT_UTIME = 11  # counted from the field after the command's name
_STAT_STIME = 12


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all threads, user and system; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_STAT_UTIME]) + int(fields[_STAT_STIME])) / _TICKS


def rss_anon(pid: int | str = "self") -> int:
    """Resident anonymous memory in bytes: what a process allocated, without the pages of files that it maps."""
    return _field(Path(f"/proc/{pid}/status"), "RssAnon:") * 1024


def written_bytes() -> int | None:
    """Bytes that this process handed to write calls so far; None where the system does not tell."""
    try:
        return _field(Path("/proc/self/io"), "wchar:")
    except OSError:
        return None


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(f"{path} has no {name}")


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def paired_ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    """The median of the rounds' own ratios: both halves of each were measured one right after the other."""
    return median(one / two for one, two in zip(ours, other, strict=True))


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core runs what; None where there is only one, and nothing is pinned."""

    server: int | None
    load: int | None

    @classmethod
    def found(cls) -> Cores:
        """The first and the last core that this process may use."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[-1]) if len(allowed) > 1 else cls(None, None)


def pin(core: int | None) -> None:
    """Bind every thread of this process, and all that they start, to one core."""
    if core is None:
        return
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(thread), {core})


@contextmanager
def pinned(core: int | None, *, back_to: int | None) -> Iterator[None]:
    """Bind this process to a core for the length of a block."""
    pin(core)
    try:
        yield
    finally:
        pin(back_to)


def file_system(folder: str) -> str:
    """The type of the file system that a folder is on: on tmpfs, fsync costs nothing."""
    there = os.path.realpath(folder)
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, found, *_ = line.split()
        inside = there == point or there.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind
