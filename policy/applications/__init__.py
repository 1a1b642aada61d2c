"""Applications: which they are, and what they are given."""
