"""The audit trail: hash-chained, written by one, shown to those who may look."""
