"""libvterm, the terminal of Neovim, as an oracle for the text on a screen (Debian: libvterm0)."""

import ctypes
from ctypes.util import find_library


class _Rect(ctypes.Structure):
    _fields_ = (("start_row", ctypes.c_int), ("end_row", ctypes.c_int), ("start_col", ctypes.c_int),
                ("end_col", ctypes.c_int))  # fmt: skip


def load() -> ctypes.CDLL | None:
    """The library; None if it is not installed."""
    name = find_library("vterm")
    for candidate in (name, "libvterm.so.0"):
        if candidate:
            try:
                library = ctypes.CDLL(candidate)
            except OSError:
                continue
            for function in ("vterm_new", "vterm_obtain_screen"):
                getattr(library, function).restype = ctypes.c_void_p
            library.vterm_screen_get_text.restype = ctypes.c_size_t
            return library
    return None


class Vterm:
    """A terminal of libvterm."""

    def __init__(self, library: ctypes.CDLL, columns: int, rows: int) -> None:
        self._library, self.columns, self.rows = library, columns, rows
        self._vt = ctypes.c_void_p(library.vterm_new(rows, columns))
        library.vterm_set_utf8(self._vt, 1)
        self._screen = ctypes.c_void_p(library.vterm_obtain_screen(self._vt))
        library.vterm_screen_enable_altscreen(self._screen, 1)
        library.vterm_screen_reset(self._screen, 1)

    def feed(self, data: bytes) -> None:
        self._library.vterm_input_write(self._vt, data, ctypes.c_size_t(len(data)))

    def lines(self) -> list[str]:
        """The rows without trailing blanks."""
        return [self._line(row) for row in range(self.rows)]

    def _line(self, row: int) -> str:
        buffer = ctypes.create_string_buffer(self.columns * 40)
        size = self._library.vterm_screen_get_text(
            self._screen, buffer, ctypes.c_size_t(len(buffer)), _Rect(row, row + 1, 0, self.columns)
        )
        return buffer.raw[:size].decode("utf-8", "replace").rstrip(" \n")

    def close(self) -> None:
        self._library.vterm_free(self._vt)
