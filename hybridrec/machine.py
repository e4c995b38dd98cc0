"""What the machine gives us."""

import os


def cores() -> int:
    """The cores this process may use: a scheduler or ``taskset`` may have given it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
