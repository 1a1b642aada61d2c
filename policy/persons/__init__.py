"""Persons: added and changed, gone, owners of targets, and what nobody may do to them."""
