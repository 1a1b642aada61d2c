"""The bytes of a terminal stream -> tokens: text, controls, escape sequences (ECMA-48; the parser of vt100.net). Pure.

Both the filter for the auditor's terminal and the screen that renders text stand on this parser, so what one lets
through is what the other draws. What may hide text or act on a terminal from inside a string (OSC, DCS, APC, PM,
SOS) never becomes a token at all.
"""

import codecs
import re
from typing import Final

TEXT: Final = 0
CONTROL: Final = 1  # one of the C0 controls that are left
ESCAPE: Final = 2  # ESC intermediates final
CSI: Final = 3  # ESC [ parameters intermediates final

Token = tuple[int, str, str, str]
"""Kind; text, control, or parameters with their private prefix (`?25`); intermediates; final character."""

MAX_SEQUENCE: Final = 256
"""Characters of one escape sequence. The longest in use (a row of SGR colours) has about 60; more is dropped."""

MAX_STRING: Final = 64 * 1024
"""Characters of one OSC, DCS, APC, PM or SOS that are dropped. After that the rest shows as text: an unfinished
string must not hide the whole session from the auditor, and longer ones (images) are not drawn anyway."""

MAX_TITLE: Final = 1024
"""The same for `ESC k title ESC \\`, which only screen and tmux take as a string."""

# C0, DEL, C1 (some terminals obey U+009B as CSI), and the marks that turn the direction of text around
# (CVE-2021-42574): none of them is text.
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_TOKENS: Final = re.compile(
    f"([^\x00-\x1f\x7f-\x9f{_BIDI}]+)"  # 1 text
    "|\x1b\\[([<-?]?[0-9:;]{0,128})([ -/]{0,8})([@-~])"  # 2 3 4 a whole control sequence
    "|([\x08-\x0f])"  # 5 controls that draw
    f"|[\x00-\x07\x10-\x17\x19\x1c-\x1f\x7f-\x9f{_BIDI}]+"  # dropped
    "|([\x18\x1a\x1b])"  # 6 the slow way
)
_DRAWS: Final = frozenset("\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f")
_STRING_ENDS: Final = re.compile("[\x07\x18\x1a\x1b]")
_TITLE_ENDS: Final = re.compile("[\x00-\x1f]")

_GROUND, _ESC, _INTERMEDIATE, _IN_CSI, _STRING, _TITLE = range(6)


class Parser:
    """Gives the same tokens however the bytes are cut, except that text may come in more pieces."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._state = _GROUND
        self._sequence = ""  # what came since ESC (and `[`)
        self._length = 0  # characters of the string or sequence so far

    def feed(self, data: bytes) -> list[Token]:
        """Tokens that `data` completes."""
        text = self._decode(data)
        tokens: list[Token] = []
        add = tokens.append
        at, end = 0, len(text)
        while at < end:
            if self._state != _GROUND:
                at = self._slow(text, at, tokens)
                continue
            for match in _TOKENS.finditer(text, at):
                group = match.lastindex
                if group == 1:
                    add((TEXT, match[1], "", ""))
                elif group == 4:
                    add((CSI, match[2], match[3], match[4]))
                elif group == 5:
                    add((CONTROL, match[5], "", ""))
                elif group == 6:
                    at = match.end()
                    if match[6] == "\x1b":
                        self._enter(_ESC)
                        break
            else:
                at = end
        return tokens

    def _enter(self, state: int) -> None:
        self._state, self._sequence, self._length = state, "", 0

    def _slow(self, text: str, at: int, tokens: list[Token]) -> int:
        """Go on from `at` inside a sequence, at least one character; where to go on from."""
        if self._state in (_STRING, _TITLE):
            return self._in_string(text, at)
        char = text[at]
        at += 1
        if char == "\x1b":
            self._enter(_ESC)
        elif char in "\x18\x1a":  # CAN and SUB break a sequence off
            self._enter(_GROUND)
        elif char < " ":  # a terminal obeys controls in the middle of a sequence
            if char in _DRAWS:
                tokens.append((CONTROL, char, "", ""))
        elif char >= "\x7f":
            # DEL is ignored in a sequence; anything above cannot belong to one, so it is text again
            if char != "\x7f":
                self._enter(_GROUND)
                return at - 1
        elif self._state == _ESC:
            self._after_escape(char, tokens)
        else:
            self._length += 1
            if self._length > MAX_SEQUENCE:
                self._enter(_GROUND)
            elif (self._state == _IN_CSI and char < "@") or (self._state == _INTERMEDIATE and char < "0"):
                self._sequence += char
            else:
                self._finish(char, tokens)
        return at

    def _after_escape(self, char: str, tokens: list[Token]) -> None:
        if char == "[":
            self._enter(_IN_CSI)
        elif char in "]PX^_":
            self._enter(_STRING)
        elif char == "k":
            self._enter(_TITLE)
        elif char < "0":
            self._enter(_INTERMEDIATE)
            self._sequence = char
        else:
            tokens.append((ESCAPE, "", "", char))
            self._enter(_GROUND)

    def _finish(self, final: str, tokens: list[Token]) -> None:
        if self._state == _INTERMEDIATE:
            tokens.append((ESCAPE, "", self._sequence, final))
        elif parts := re.fullmatch("([<-?]?[0-9:;]{0,128})([ -/]{0,8})", self._sequence):
            tokens.append((CSI, parts[1], parts[2], final))
        self._enter(_GROUND)

    def _in_string(self, text: str, at: int) -> int:
        ends, limit = (_TITLE_ENDS, MAX_TITLE) if self._state == _TITLE else (_STRING_ENDS, MAX_STRING)
        end = min(len(text), at + limit - self._length)
        match = ends.search(text, at, end)
        if match is None:
            self._length += end - at
            if self._length >= limit:
                self._enter(_GROUND)
            return end
        if match[0] == "\x1b":  # the first half of ST, or the start of the next sequence
            self._enter(_ESC)
        else:
            self._enter(_GROUND)
        return match.end()
