"""Secrets of accounts that change by themselves, and are proven before they count."""
