"""What the operating system says of this process, without torch."""

import os
from pathlib import Path


def available_cores() -> int:
    """Processor cores that this process may use: its share, where torchrun started several."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    sharing = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, cores // int(sharing)) if sharing.isdigit() and int(sharing) else cores


def memory() -> tuple[int, int]:
    """Bytes of memory, and how many of them are free; zeros where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return found["MemTotal"], found["MemAvailable"]
    except (OSError, ValueError, IndexError, KeyError):
        return 0, 0


def process_age() -> float:
    """Seconds since this process was started, where the system says so; else 0."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    age = uptime - ticks / os.sysconf("SC_CLK_TCK")
    # A container may count its uptime and its processes from different moments.
    return age if 0 <= age < 600 else 0.0
