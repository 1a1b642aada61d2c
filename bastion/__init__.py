"""The doors: what faces people and networks. Keeps no secret at rest."""

__version__ = "0.1.0"
