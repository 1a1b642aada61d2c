"""The recorder: an append-only, chained, sealed and encrypted journal per session (FORMAT.md)."""
