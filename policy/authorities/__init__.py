"""Certificate authorities: what targets and clients trust, for how long, and what of it does not count any more."""
