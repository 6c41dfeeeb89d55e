"""What memory a side took."""

from pathlib import Path


def peak_mb() -> float:
    "Most memory that this process had, in MB; `ru_maxrss` would count what its parent had when it forked."
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
