"""How much one read takes."""

from bastion.ssh.pace import LULL, READ, SHARED, Pace


def test_reads_are_small_while_somebody_types_and_large_again_afterwards() -> None:
    pace = Pace()
    assert pace.read_size(0.0) == READ
    pace.typed(10.0)
    assert pace.read_size(10.0) == SHARED
    pace.typed(10.9)
    assert pace.read_size(10.0 + LULL) == SHARED, "the newest key counts"
    assert pace.read_size(10.9 + LULL) == READ
