"""What a session is at its beginning: its id, its row in the database, its event in the trail."""

import os
import time

from policy.records import Session
from policy.rules.decide import Allow
from policy.sessions.live import Live
from policy.trail.audit import Event


def granted(live: Live, allow: Allow) -> Event:
    return Event(
        event="access-granted",
        who=live.person,
        what=f"{live.account}@{live.target}",
        why=allow.rule,
        source=live.source,
        session=live.id,
        detail={
            "kinds": " ".join(sorted(allow.kinds)),
            "rules": "; ".join(allow.rules),
            "via": live.via,
            "address": f"{live.address}:{live.port}",
            **({"seconds": f"{allow.expires_in.total_seconds():.0f}"} if allow.expires_in else {}),
            **({"reason": live.reason} if live.reason else {}),
            **({"ticket": live.ticket} if live.ticket else {}),
            **({"grant": live.grant} if live.grant else {}),
            **({"break-glass": "yes"} if allow.break_glass else {}),
            **({"watched": "yes"} if allow.watched else {}),
            **({"certificate": terms} if (terms := str(allow.certificate)) else {}),
        },
    )


def row(live: Live, allow: Allow) -> Session:
    now = time.time_ns()
    expires = now + int(allow.expires_in.total_seconds() * 1e9) if allow.expires_in else None
    return Session(
        id=live.id, person=live.person, account=live.account, target=live.target, source=live.source, via=live.via,
        rule=live.rule, granted=now, expires=expires, access_grant=live.grant,
    )  # fmt: skip


def session_id() -> str:
    """A UUIDv7 (RFC 9562 section 5.7) as 32 hexadecimal digits: sorts by time, and cannot be guessed."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    return f"{value & ~(0x3 << 62) | 0x2 << 62:032x}"  # variant
