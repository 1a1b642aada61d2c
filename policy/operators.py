"""Which persons may stand behind a conversation: the one who is proven, or whose login on this machine it is.

Nobody may decide on, watch or review what is their own, and `sudo` is no other person: the kernel still knows the
login that a session began with (pam_loginuid).
"""

import pwd
from pathlib import Path
from typing import Final

from policy.conversation import Conversation, State
from policy.peers import Peer

_NO_LOGIN: Final = 0xFFFFFFFF


def names_behind(talk: Conversation) -> frozenset[str]:
    """Names of persons that this conversation may be of."""
    return frozenset({talk.person}) if talk.state is State.PERSON else login_names(talk.peer)


def login_names(peer: Peer) -> frozenset[str]:
    """Names of the user that a local peer runs as and of the one that logged in; root's is of nobody."""
    return frozenset(name for uid in {peer.uid, _login_uid(peer.pid)} if (name := _name(uid)) and uid != 0)


def _login_uid(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/loginuid").read_text())
    except (OSError, ValueError):
        return _NO_LOGIN


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return ""
