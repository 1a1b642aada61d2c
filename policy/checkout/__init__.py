"""Passwords of accounts that people have for a time."""
