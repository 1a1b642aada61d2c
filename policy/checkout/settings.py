"""`[checkout]` of policy.toml: how long a password may be out, and whether one may that nobody changes. Pure.

[checkout]
longest   = "8h"    # whatever a rule's limits say
unrotated = false   # true: also accounts that no [[rotation]] with after = ["checkout"] is about
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from policy.rules.windows import parse_duration
from policy.toml_tables import Table

LONGEST: Final = timedelta(hours=8)
"""A working day; a rule's `limits.session`, its hours and a grant's end make it shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutRules:
    longest: timedelta = LONGEST
    unrotated: bool = False


def parse_checkout(table: Table) -> CheckoutRules:
    table.known("longest", "unrotated")
    return CheckoutRules(longest=table.parsed("longest", parse_duration) or LONGEST, unrotated=table.flag("unrotated"))
