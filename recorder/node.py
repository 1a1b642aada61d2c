"""What makes a node: its key and its log."""

import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from recorder import nodelog
from recorder.codec import FormatError
from recorder.durable import FILE_MODE, Folder, LogFile, Unusable, replace
from recorder.model import SessionId
from recorder.nodelog import Entry, What
from recorder.walk import Cut, open_file

NODE_KEY, NODE_PUB = "node.key", "node.pub"
MAX_KEY: Final = 4096


class NodeLog:
    """The log while it grows."""

    def __init__(self, folder: Folder, key: Ed25519PrivateKey) -> None:
        """OSError; Unusable if what is there is damaged: it is evidence, so a person moves it away."""
        public = key.public_key().public_bytes_raw()
        self._key = key
        path = folder.path / nodelog.LOG
        try:
            self.file: LogFile = folder.open_log(nodelog.LOG, nodelog.new_header(public))
        except OSError as error:
            raise Unusable(f"`{path}`: {(error.strerror or '').lower()}", f"look at it: ls -ld {path}") from None
        try:
            with open_file(path) as file:
                self._chain, records = nodelog.read(file, public)
                good = nodelog.HEADER
                try:
                    for record in records:
                        good = record.offset + len(record.body) + 8
                except Cut:
                    self.file.cut(good)  # we died while writing it
        except FormatError as error:
            raise Unusable(
                f"`{path}`: {error}", f"keep it as evidence under another name, then start again: mv {path} {path}.kept"
            ) from None

    def note(self, what: What, wall_us: int, session: SessionId, file: str, state: bytes, how: str = "") -> None:
        """OSError: it could not be written; the log goes on where it was."""
        entry = Entry(what=what, wall_us=wall_us, session=session, file=file, state=state, how=how)
        before = self._chain.state
        try:
            self.file.append(self._chain.frame(what, entry.encode(before, self._key.sign)))
        except OSError:
            self._chain.state = before
            raise


def node_key(folder: Folder) -> Ed25519PrivateKey:
    """This node's key, made on first start: `node.key` (mode 0600) and, for those who verify, `node.pub`.

    OSError; Unusable if there is something else.
    """
    path = folder.path / NODE_KEY
    try:
        handle = os.open(NODE_KEY, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.handle)
    except FileNotFoundError:
        if folder.path.joinpath(nodelog.LOG).exists():
            # A new pair would overwrite the public half, by which all that is here is verified.
            raise Unusable(f"`{path}` is gone, but its log is there", _restore(path)) from None
        return _make_node_key(folder)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise Unusable(f"`{path}` is not a file", _restore(path))
        if found.st_mode & 0o077:
            raise Unusable(f"`{path}` can be read by others", f"if nobody has: chmod 600 {path}")
        data = os.read(handle, MAX_KEY)
    finally:
        os.close(handle)
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise Unusable(f"`{path}` is no Ed25519 key", _restore(path))
    return key


def _restore(path: Path) -> str:
    return f"put it back from its copy; for a new identity of this node move all of `{path.parent}` away"


def _make_node_key(folder: Folder) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    # The public half first: dying in between, the next start makes a new pair.
    replace(folder, NODE_PUB, public, FILE_MODE)
    replace(folder, NODE_KEY, private, 0o600)
    return key
