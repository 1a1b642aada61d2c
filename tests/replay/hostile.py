"""What a recorded target may send to hurt whoever watches: each must leave nothing but its harmless text."""

from typing import Final

HOSTILE: Final[dict[str, bytes]] = {
    # strings: an operating system command, and the other four
    "title": b"\x1b]0;owned\x07",
    "title, ST": b"\x1b]2;owned\x1b\\",
    "icon name": b"\x1b]1;owned\x07",
    "clipboard write": b"\x1b]52;c;cm0gLXJmIC8K\x07",
    "clipboard read": b"\x1b]52;c;?\x1b\\",
    "selection write": b"\x1b]52;p;cm0gLXJmIC8K\x1b\\",
    "link": b"\x1b]8;;https://evil.example/\x1b\\",
    "working directory": b"\x1b]7;file://evil/etc\x07",
    "palette change": b"\x1b]4;1;rgb:00/00/00\x07",
    "palette query": b"\x1b]4;1;?\x07",
    "foreground query": b"\x1b]10;?\x1b\\",
    "background black on black": b"\x1b]11;#000000\x07",
    "notification": b"\x1b]9;click me\x07",
    "urxvt notification": b"\x1b]777;notify;a;b\x07",
    "iterm file download": b"\x1b]1337;File=name=eA==;inline=0:aGVsbG8=\x07",
    "iterm profile": b"\x1b]1337;SetProfile=root\x07",
    "shell integration": b"\x1b]133;A\x07",
    "font": b"\x1b]50;#1\x07",
    "log file": b"\x1b]46;/etc/cron.d/x\x07",
    "DECRQSS": b'\x1bP$q"p\x1b\\',
    "DECRQSS echo (CVE-2008-2383)": b"\x1bP$q\nid\n\x1b\\",
    "termcap query": b"\x1bP+q544e\x1b\\",
    "termcap change": b"\x1bP+p4b44=6964\x1b\\",
    "sixel": b"\x1bPq#0;2;0;0;0~\x1b\\",
    "key definition": b"\x1bP1;1|17/6964\x1b\\",
    "tmux pass-through": b"\x1bPtmux;\x1b\x1b]52;c;eA==\x07\x1b\\",
    "kitty image": b"\x1b_Gi=1,a=q;AAAA\x1b\\",
    "application program command": b"\x1b_evil\x1b\\",
    "privacy message": b"\x1b^evil\x1b\\",
    "start of string": b"\x1bXevil\x1b\\",
    "screen title": b"\x1bkevil\x1b\\",
    "string ended by CAN": b"\x1b]0;owned\x18",
    "string ended by SUB": b"\x1bPowned\x1a",
    # questions: the terminal's answer would be typed into the auditor's shell
    "answerback": b"\x05",
    "DECID": b"\x1bZ",
    "device attributes": b"\x1b[c",
    "secondary attributes": b"\x1b[>c",
    "tertiary attributes": b"\x1b[=c",
    "status": b"\x1b[5n",
    "cursor position": b"\x1b[6n",
    "private cursor position": b"\x1b[?6n",
    "printer status": b"\x1b[?15n",
    "DECRQM": b"\x1b[4$p",
    "private DECRQM": b"\x1b[?2026$p",
    "checksum (reads the screen)": b"\x1b[1;1;1;1;24;80*y",
    "parameters": b"\x1b[0x",
    "version": b"\x1b[>q",
    "report title (CVE-2003-0063)": b"\x1b[21t",
    "report size": b"\x1b[18t",
    "presentation state": b"\x1b[1$w",
    "keyboard query": b"\x1b[?u",
    # windows, printers, modes
    "iconify": b"\x1b[2t",
    "resize": b"\x1b[8;1;1t",
    "push title": b"\x1b[22;0t",
    "print screen": b"\x1b[i",
    "print on": b"\x1b[5i",
    "auto print": b"\x1b[?5i",
    "erase scrollback": b"\x1b[3J",
    "mouse": b"\x1b[?1000h\x1b[?1003h\x1b[?1006h",
    "focus": b"\x1b[?1004h",
    "bracketed paste": b"\x1b[?2004h",
    "application cursor keys": b"\x1b[?1h",
    "application keypad": b"\x1b=",
    "line feed mode": b"\x1b[20h",
    "keyboard lock": b"\x1b[2h",
    "132 columns": b"\x1b[?3h",
    "reverse screen": b"\x1b[?5h",
    "synchronised output": b"\x1b[?2026h",
    "left and right margins": b"\x1b[?69h\x1b[1;2s",
    "mouse tracking of one point": b"\x1b[1;1T",
    "national characters": b"\x1b(K",
    "highlight mouse tracking": b"\x1b[1;1;1;1;1T",
    "modify other keys": b"\x1b[>4;2m",
    "kitty keyboard": b"\x1b[>31u\x1b[=5;1u",
    "cursor blink": b"\x1b[5 q",
    "lights": b"\x1b[1q",
    "VT52 mode": b"\x1b[?2l",
    "UTF-8 off": b"\x1b%@",
    "8-bit controls": b"\x1b G",
    "locking shift": b"\x1bn\x1bo\x1b~",
    "single shift": b"\x1bN\x1bO",
    "memory lock": b"\x1bl",
    "DECSTR with a value": b"\x1b[1!p",
    "tektronix": b"\x1b\x0c"[:1] + b"\x1b[?38h",
    "repeat that overflows": b"\x1b[999999999b",
    "move that overflows": b"\x1b[99999999999999999999C",
    "bell": b"\x07",
    "NUL, XON, XOFF, DEL": b"\x00\x11\x13\x7f",
    # other spellings
    "C1 OSC, one byte": b"\x9d0;",
    "C1 CSI in UTF-8": b"\xc2\x9b",
    "C1 OSC in UTF-8": b"\xc2\x9d\xc2\x9c",
    "C1 DCS in UTF-8": b"\xc2\x90",
    "C1 DECID in UTF-8": b"\xc2\x9a",
    "NEL in UTF-8": b"\xc2\x85",
    "control inside": b"\x1b[\x006n",
    "ESC inside OSC": b"\x1b]52;c;eA==\x1b[6n",
    "text turned around": "\u202e\u2066\u2069\u200f".encode(),
    "sequence without end": b"\x1b[" + b"1;" * 400,
}


def acting(text: str) -> list[str]:
    """What in filtered text could do more than draw; written apart from the filter, from the same rules."""
    import re

    allowed = re.compile(
        r"\x1b\[(?:\d{0,4}(?:;\d{0,4}){0,2}[@A-HJ-MPSXZ`abdefgrI]|\d{0,4}T|[0-9:;]*m|[su]|4[hl]"
        r"|\?(?:6|7|25|47|1047|1048|1049)(?:;(?:6|7|25|47|1047|1048|1049))*[hl])"
        r"|\x1b[78DEHM]|\x1b[()][0AB]|\x1b#8|[\x08-\x0f]"
    )
    rest = allowed.sub("", text)
    found = re.findall("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", rest)
    return found + (["erase scrollback"] if re.search(r"\x1b\[0*3(;[0-9;]*)?J", text) else [])
