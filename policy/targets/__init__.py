"""Targets and their accounts, as operators and persons see them."""
