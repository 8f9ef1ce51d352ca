"""What torchrun tells the processes that it starts, in their environment. Nothing here imports torch."""

from __future__ import annotations

import os


def several() -> bool:
    """Whether this is one of several processes."""
    # torchrun sets both, a cluster's job may set the first alone
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this is the process that speaks for all, as a single one does."""
    return os.environ.get("RANK", "0") == "0"


def processes_here() -> int:
    """Processes of this run on this machine."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def restarts() -> int:
    """How often torchrun has started the processes of this machine anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def job() -> str:
    """What names the job through all restarts; empty without torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")
