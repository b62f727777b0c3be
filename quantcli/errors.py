"""The errors of the project and their exit codes.

Every failure that a user can meet is a `QuantError` with a message `WHERE: PROBLEM. HINT`. The subclass decides the
exit code; `cli` prints the message as one line on stderr.
"""


class QuantError(Exception):
    """A failure that is reported to the user; `exit_code` becomes that of the process."""

    exit_code = 1


class CheckFailed(QuantError):
    """A requested check (`diff --max-rmse`, `inspect --require`) failed."""

    exit_code = 1


class WrongUsage(QuantError):
    """Options are invalid, contradict each other or have no effect."""

    exit_code = 2


class BadInput(QuantError):
    """The input is malformed, contradictory or truncated, or a weight holds NaN or Inf."""

    exit_code = 3


class NotPossible(QuantError):
    """The input is valid, but the request cannot be done with it; the message says what would work."""

    exit_code = 4


class Surroundings(QuantError):
    """The disk, a permission, the network or another process failed; a later attempt may succeed."""

    exit_code = 5


class VerificationFailed(QuantError):
    """A finished output differs from its plan."""

    exit_code = 6
