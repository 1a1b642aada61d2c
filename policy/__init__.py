"""The policy authority: who people are, what they may do, and the secrets targets need (PROTOCOL.md)."""
