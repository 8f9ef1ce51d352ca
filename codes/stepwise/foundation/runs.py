"""A run folder: its lock, args.yaml, metrics.csv, TensorBoard events and summary.json."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import make_folder, write_atomically

LOCK_PATIENCE_S = 12.0
_RUN_FILES = (
    *("best_model.pt", "last.pt", "previous.pt", "next.pt", "checkpoint_[0-9]*.pt", "checkpoint_epoch_[0-9]*.pt"),
    *("metrics.csv", "summary.json", "events.out.tfevents.*", "training_losses.png", "loss_history.png"),
    *("samples/epoch_*.png", "samples/samples_epoch_*.png", "reconstructions/reconstruction_epoch_*.png"),
)


class RunFolder:
    """The output folder of one training run; holds its lock until the process ends.

    The lock is the operating system's (flock or its Windows counterpart), so it goes with the
    process that held it, however that ended. Of several processes of one run only the one that
    `writes` takes it; the others' writing methods do nothing.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path = make_folder(path)
        self.writes = writes
        self.to_clear = False
        self._writer: Any = None
        self.started = time.monotonic()
        self._lock = FileLock(path / ".run.lock")
        if not writes:
            return
        import tensorboard  # noqa: F401  # to be missed now, not after the first epoch

        self._take_lock()
        for torn in path.glob(".*.tmp"):
            torn.unlink()

    def _take_lock(self) -> None:
        """Data-loader workers of a killed run keep its lock for the few seconds until they notice."""
        owner_file = self.path / ".run.owner"
        try:
            self._lock.acquire(timeout=LOCK_PATIENCE_S if not _alive(owner_file) else 0)
        except Timeout:
            raise UserError(
                f"Another run is writing into {self.path}.\nWait for it, stop it, or choose another --output-dir."
            )
        except (OSError, NotImplementedError) as error:
            raise UserError(f"{self.path} cannot be locked or written: {error}.\nChoose another --output-dir.")
        owner_file.write_text(str(os.getpid()))

    @contextmanager
    def time_apart(self) -> Iterator[None]:
        """Time that --max-minutes does not count, as nobody can know how long a download takes."""
        before = time.monotonic()
        yield
        self.started += time.monotonic() - before

    @property
    def has_run(self) -> bool:
        return any((self.path / name).exists() for name in ("best_model.pt", "last.pt", "previous.pt"))

    def set_best_aside(self) -> None:
        """Rename a best_model.pt of another run, or another course of this one, so that it is not replaced."""
        best = self.path / "best_model.pt"
        names = (f"best_model.before{number}.pt" for number in ("", *range(2, 1000)))
        aside = next(self.path / name for name in names if not (self.path / name).exists())
        if best.exists():
            best.replace(aside)
            print(f"The best_model.pt found there is kept as {aside}.")

    def clear(self) -> None:
        """Remove what an earlier run wrote here, and nothing else."""
        if not self.writes:
            return
        for pattern in _RUN_FILES:
            for file in self.path.glob(pattern):
                file.unlink()

    def write_args(self, args: argparse.Namespace, remarks: list[str]) -> None:
        """args.yaml: every flag as it was used; `--config args.yaml` repeats the run."""
        if not self.writes:
            return
        import yaml

        leave = {"config", "resume", "overwrite"}
        flags = {key.replace("_", "-"): value for key, value in vars(args).items() if key not in leave}
        text = "".join(f"# {remark}\n" for remark in remarks) + yaml.safe_dump(flags, sort_keys=True)
        write_atomically(self.path / "args.yaml", [text.encode()])

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Replace metrics.csv by `rows`. It holds no clock times: a resumed run writes the same bytes."""
        if not self.writes:
            return
        columns: list[str] = []
        for row in rows:
            columns += [key for key in row if key not in columns]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path / "metrics.csv", [text.getvalue().encode()])

    def write_summary(self, summary: dict[str, Any]) -> None:
        if self.writes:
            write_atomically(self.path / "summary.json", [(json.dumps(summary, indent=2) + "\n").encode()])

    def remove_summary(self) -> None:
        """To be called when a run goes on that had ended: summary.json stands for its end."""
        if self.writes:
            (self.path / "summary.json").unlink(missing_ok=True)

    def log_scalars(self, row: dict[str, Any], step: int) -> None:
        """Append to the TensorBoard events; on resume, later steps of the killed run are purged."""
        if not self.writes:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.path), purge_step=step)
        for key, value in row.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._lock.release()


def _alive(owner_file: Path) -> bool:
    """Whether the process that last wrote the owner file still runs (unknown counts as running)."""
    try:
        owner = int(owner_file.read_text())
        if os.name != "posix":
            return True
        os.kill(owner, 0)
    except (OSError, ValueError) as error:
        return isinstance(error, PermissionError)
    return True
