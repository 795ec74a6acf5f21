"""What can go wrong on a user's side, and the exit code that says so."""

DONE = 0  # the run reached its last step
FAILED = 1  # a mistake in what the user gave, or a fault of the machine
DIVERGED = 65  # a loss or a parameter became NaN or infinite
REQUEUE = 75  # checkpointed before the end; start the same command again


class UserError(Exception):
  """A mistake the user can mend. The message names the thing and the way out; it is shown without a traceback."""


class NotPrepared(UserError):
  """A data set that is known, and lies nowhere yet: a command prepares it."""


class OutOfMemory(UserError):
  """What was asked for does not fit the memory there is; nothing of it was computed."""


class Diverged(Exception):
  """Training produced a NaN or an infinity. The message names the run, the step and the first bad tensor."""
