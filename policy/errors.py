"""What every error for people has."""


class PolicyError(Exception):
    """It cannot be: the cause, and as `hint` the command that helps, or nothing. Neither ever holds a secret."""

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint
