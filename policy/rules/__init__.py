"""What may be: `policy.toml` read, a question decided by it, and asked back what it would answer."""
