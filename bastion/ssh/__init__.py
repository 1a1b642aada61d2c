"""The SSH door, and the only place that imports asyncio or asyncssh."""
