"""The one error of a change that cannot be made."""


class Conflict(Exception):
    """The change collides with what is there: a name, a fingerprint, a used-up time step, a request that is closed."""
