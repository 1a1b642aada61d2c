"""The work of a gateway on accounts of targets: changing what opens them, and logging in to see what does."""
