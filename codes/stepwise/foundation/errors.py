"""Errors that a user can mend, and how a script ends on them."""

from __future__ import annotations

STOP_SIGNALS = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 0, "SIGHUP": 129}  # and the exit code after each


class UserError(Exception):
    """A mistake or a lack that the user can mend: one to three lines, the remedy last.

    `run_script` prints it without a traceback and ends with exit code 2. Anything else is a
    bug and keeps its traceback.
    """


class WrongFlag(UserError):
    """A flag that cannot be meant as it was given: it ends a script also where one bad file would be left out."""


class Interrupted(Exception):
    """A stop signal was seen at a safe point. `exit_code` is what the process ends with."""

    def __init__(self, signal_name: str, exit_code: int):
        super().__init__(signal_name)
        self.signal_name = signal_name
        self.exit_code = exit_code
