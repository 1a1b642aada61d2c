"""How often a peer may begin a key exchange (RFC 4253 section 9). Pure.

Attack: somebody who is logged in, or a target, exchanges keys again and again. Each time costs a gateway that others
share about 7 ms, and them next to nothing. So an exchange is earned, by data that moves or by time that passes:
`RekeyLimit 1M` at any speed goes on for ever, and so does one exchange in five seconds. OpenSSH has no such limit;
there one process serves one person.
"""

from typing import Final

BURST: Final = 16
"""Exchanges at once; 0.1 s of the processor."""
BYTES: Final = 512 * 1024
"""Bytes, both directions together, that earn one: half of the smallest RekeyLimit in use, which counts one."""
SECONDS: Final = 5.0
"""Time that earns one, whatever moves: 0.15 % of a processor."""


class Renewals:
    """`now` is in seconds from any fixed point and never runs backwards."""

    def __init__(self, now: float) -> None:
        self._left = float(BURST)
        self._since = now

    def may_begin(self, moved: int, now: float) -> bool:
        """Is one more earned? `moved` is in bytes, since this was asked last."""
        self._left = min(self._left + moved / BYTES + (now - self._since) / SECONDS, BURST) - 1
        self._since = now
        return self._left >= 0
