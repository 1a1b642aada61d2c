"""Bulk: bytes per second and CPU per byte, through one connection."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from tests.bench.figures import Figure, Goal, Samples, Shot
from tests.bench.site import WAYS, Bastion, Site
from tests.bench.transfers import Load, transfer

COLUMNS = {"direct": "direct", "ssh -J": "jumped", "bastion": "bastion", "bastion -J": "nested"}
LABELS = {"exec-down": "command, down", "exec-up": "command, up", "sftp-down": "sftp get", "sftp-up": "sftp put"}


@dataclass
class Bulk:
    """exec and sftp, both directions, all four ways, the same cipher on each hop."""

    site: Site
    size: int
    name: str = "bulk"

    def shots(self) -> list[Shot]:
        self.load = Load.make(self.size)
        return [
            Shot(f"{how} {way}", partial(transfer, self.site, self.load, how, way)) for how in LABELS for way in WAYS
        ]

    def figures(self, samples: Samples) -> Iterable[Figure]:
        for how, label in LABELS.items():
            medians = samples.medians("MB/s", {column: f"{how} {way}" for column, way in COLUMNS.items()})
            yield Figure(what=f"{label}, against `ssh -J`", measured=medians, unit="MB/s",
                         value=samples.ratio("MB/s", f"{how} bastion", f"{how} jumped"),
                         goal=Goal(">=", 1.1 if "down" in how else 1.7))  # fmt: skip
            yield Figure(what=f"{label}, against direct ssh", value=samples.ratio("MB/s", f"{how} bastion",
                         f"{how} direct"), goal=Goal(">=", 0.5 if "down" in how else 0.65))  # fmt: skip
            yield Figure(what=f"{label}, recorded `ssh -J` against unrecorded",
                         value=samples.ratio("MB/s", f"{how} nested", f"{how} jumped"),
                         goal=Goal(">=", 0.75 if "down" in how else 1.3))  # fmt: skip
        for how, label in LABELS.items():
            jump, ours, nested = f"{how} jumped", f"{how} bastion", f"{how} nested"
            others = samples.median(ours, "recorderd ms/GB") + samples.median(ours, "policyd ms/GB")
            ratios = [
                own / theirs
                for own, theirs in zip(samples.of(ours, "gateway ms/GB"), samples.of(jump, "jump ms/GB"), strict=True)
            ]
            yield Figure(
                what=f"CPU of the gateway, {label}, against a jump sshd",
                measured={"ssh -J": samples.median(jump, "jump ms/GB"),
                          "bastion": samples.median(ours, "gateway ms/GB"),
                          "bastion -J": samples.median(nested, "gateway ms/GB")},
                unit="ms/GB", value=sorted(ratios)[len(ratios) // 2], goal=Goal("<=", 2.0),
                note=f"SHA-256 of the content included; recorderd and policyd: {others:.0f} ms/GB",
            )  # fmt: skip

    def close(self) -> None:
        self.load.remove()


@dataclass
class Unhashed:
    """The same without SHA-256 of what is moved: what the relay itself costs."""

    site: Site
    size: int
    name: str = "unhashed"

    def shots(self) -> list[Shot]:
        self.load = Load.make(self.size)
        self.plain: Bastion = self.site.bastion("hash_content = false")
        ways = {"jumped": None, "bastion": self.plain}
        return [
            Shot(f"{how} {way}", partial(transfer, self.site, self.load, how, way, bastion=bastion))
            for how in ("exec-down", "exec-up")
            for way, bastion in ways.items()
        ]

    def figures(self, samples: Samples) -> Iterable[Figure]:
        for how in ("exec-down", "exec-up"):
            jump, ours = samples.of(f"{how} jumped", "jump ms/GB"), samples.of(f"{how} bastion", "gateway ms/GB")
            ratios = sorted(own / theirs for own, theirs in zip(ours, jump, strict=True))
            yield Figure(
                what=f"CPU of the gateway without content hash, {LABELS[how]}, against a jump sshd",
                measured={"ssh -J": samples.median(f"{how} jumped", "jump ms/GB"),
                          "bastion": samples.median(f"{how} bastion", "gateway ms/GB")},
                unit="ms/GB", value=ratios[len(ratios) // 2], goal=Goal("<=", 1.3),
            )  # fmt: skip

    def close(self) -> None:
        self.load.remove()
        self.plain.stop()


@dataclass
class DefaultCipher:
    """A client that has chosen nothing. OpenSSH picks chacha20 unless it is steered, which the bastion does."""

    site: Site
    size: int
    name: str = "default-cipher"

    def shots(self) -> list[Shot]:
        self.load = Load.make(self.size)
        return [
            Shot(f"{how} {way}", partial(transfer, self.site, self.load, how, way, cipher=""))
            for how in ("exec-down", "exec-up")
            for way in WAYS
        ]

    def figures(self, samples: Samples) -> Iterable[Figure]:
        for how in ("exec-down", "exec-up"):
            medians = samples.medians("MB/s", {column: f"{how} {way}" for column, way in COLUMNS.items()})
            yield Figure(what=f"{LABELS[how]}, the client's default cipher, against `ssh -J`", measured=medians,
                         unit="MB/s", value=samples.ratio("MB/s", f"{how} bastion", f"{how} jumped"),
                         goal=Goal(">=", 1.8 if "down" in how else 2.3))  # fmt: skip

    def close(self) -> None:
        self.load.remove()
