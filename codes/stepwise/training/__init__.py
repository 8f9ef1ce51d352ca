"""The training floor: flags, learners, the one loop, schedules, stopping."""
