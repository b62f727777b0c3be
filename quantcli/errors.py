"""The one error class of the project and its exit codes.

Every failure that a user can meet is a `QuantError`: one sentence that says what is wrong, where, and what to do. The
subclass decides the exit code; `cli` turns it into a line on stderr and nothing else.
"""


class QuantError(Exception):
    """Something the user has to know; `exit_code` is the process's."""

    exit_code = 1


class CheckFailed(QuantError):
    """A check that was asked for (`diff --max-rmse`, `inspect --require`) did not hold."""

    exit_code = 1


class WrongUsage(QuantError):
    """Options that contradict each other or mean nothing here."""

    exit_code = 2


class BadInput(QuantError):
    """Malformed, contradictory or truncated input, or NaN or Inf in a weight."""

    exit_code = 3


class NotPossible(QuantError):
    """Sound input, but what was asked cannot be done with it; the message says what would work."""

    exit_code = 4


class Surroundings(QuantError):
    """The disk, a permission, the network, another process: try again when they are mended."""

    exit_code = 5


class VerificationFailed(QuantError):
    """A finished output did not hold what its plan promised."""

    exit_code = 6
