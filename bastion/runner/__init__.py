"""Operators' scripts that change secrets in their own way, run for policyd by a process of its own user."""
