"""`bastion vault`: what can also be said over ssh stands in `bastion.vocabulary`; what is typed here alone, here."""

from bastion.cli.rekey import rekey
from bastion.cli.rotating import rotate
from bastion.cli.unlock import unlock
from bastion.cli.words import Group

command = Group("vault")
command.help = "Secrets at rest, and the key that opens them."
command.add_command(unlock)
command.add_command(rotate)
command.add_command(rekey)
