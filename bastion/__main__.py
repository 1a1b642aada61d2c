"""`python -m bastion`: the same as `bastion`."""

from bastion.cli import main

if __name__ == "__main__":
    main()
