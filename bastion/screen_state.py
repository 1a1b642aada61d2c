"""What a target's output says about its terminal: a prompt that asks for a secret, a full-screen program. Pure.

Nothing is drawn: the last bytes and the mode switches are enough, and a flood of output costs one search a chunk.
"""

import re
from typing import Final

TAIL: Final = 512
"""Bytes of output remembered: the line that holds the prompt, and the redrawing of a status line after it."""

SEGMENTS: Final = 3
"""Pieces of a screen looked at in full-screen programs: tmux draws its status line after the prompt of a pane."""

_CARRY: Final = 16  # longest mode switch, less one, rounded up: it may be cut between two chunks

_WORDS: Final = (
    r"pass ?word|pass ?phrase|pass ?code|passwd|\bpin\b|verification code|security code|one[- ]time|\botp\b|secret"
    r"|token|credential|passwort|kennwort|geheim|mot de passe|phrase de passe|contraseña|clave|senha|palavra-passe"
    r"|wachtwoord|parola|hasło|heslo|jelszó|lösenord|adgangskode|passord|salasana|şifre|parolă|лозинка|пароль|парола"
    r"|κωδικός|סיסמה|كلمة المرور|كلمة السر|گذرواژه|पासवर्ड|รหัสผ่าน|mật khẩu|kata sandi"
    r"|密码|密碼|口令|パスワード|暗証|암호|비밀번호"
)
_PROMPT: Final = re.compile(rf"(?:{_WORDS})[^\n]{{0,200}}[:>?：﹕？][ \t\xa0]*$", re.IGNORECASE)
_PROMPT_ENDS: Final = (":", ">", "?", "：", "﹕", "？")
_CONTROLS: Final = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\x00-\x08\x0e-\x1f\x7f]"
)
_BREAKS: Final = re.compile(rb"\n|\r(?!\n)|\x1b\[[0-9;]*[HfdABEF]|\x1b[MDE78]")
_SWITCH: Final = re.compile(rb"\x1b\[\?([0-9;]{1,12})([hl])")

_ALTERNATE: Final = {b"47", b"1047", b"1049"}
_CURSOR_KEYS: Final = b"1"  # application cursor keys: vim, less, htop, and shells while they edit a line themselves


def asks_for_secret(line: str) -> bool:
    """Does this line of output end like a prompt for a password, a code or the like?"""
    # Its last character first: to look for each word at each place of a line took a quarter of a keystroke's CPU.
    ends = line.removesuffix("\n").rstrip(" \t\xa0").endswith(_PROMPT_ENDS)
    return ends and _PROMPT.search(line) is not None


class ScreenState:
    """Follows the output of one channel, all its streams as one."""

    __slots__ = ("_alternate", "_asks", "_cursor_keys", "_fresh", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._alternate = False
        self._cursor_keys = False
        self._asks = False
        self._fresh = False  # `_asks` belongs to `_tail`

    def output(self, data: bytes) -> None:
        """The next bytes of output."""
        # One byte is found ten times faster than three, and most output has no escape at all.
        at = data.find(b"\x1b")
        if (at >= 0 and data.find(b"\x1b[?", at) >= 0) or b"\x1b" in self._tail[-_CARRY:]:
            self._switch(self._tail[-_CARRY:] + data)
        self.text(data)

    def text(self, data: bytes) -> None:
        """The same for output without a terminal: it has no modes."""
        self._tail = data[-TAIL:] if len(data) >= TAIL else (self._tail + data)[-TAIL:]
        self._fresh = False

    def answered(self) -> None:
        """Enter was typed: a prompt asks once. Modes stay."""
        # The beginning of a mode switch may be the end of what came so far.
        cut = self._tail.rfind(b"\x1b", -_CARRY) if self._tail else -1
        self._tail = self._tail[cut:] if cut >= 0 else b""
        self._asks, self._fresh = False, True

    @property
    def full_screen(self) -> bool:
        """A program draws the screen itself, so what is typed is not echoed where the cursor stands."""
        return self._alternate or self._cursor_keys

    @property
    def asks(self) -> bool:
        """The output ends with a prompt for a secret."""
        if not self._fresh:
            if self.full_screen:
                parts = [part for part in _BREAKS.split(self._tail) if _CONTROLS.sub(b"", part).strip()]
            else:
                parts = [re.split(rb"[\r\n]", self._tail.rstrip(b"\r"))[-1]]
            self._asks = any(
                asks_for_secret(_CONTROLS.sub(b"", part).decode("utf-8", "replace")) for part in parts[-SEGMENTS:]
            )
            self._fresh = True
        return self._asks

    def _switch(self, data: bytes) -> None:
        for modes, action in _SWITCH.findall(data):
            on = action == b"h"
            for mode in modes.split(b";"):
                if mode in _ALTERNATE:
                    self._alternate = on
                elif mode == _CURSOR_KEYS:
                    self._cursor_keys = on
