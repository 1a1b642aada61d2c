"""A bastion in one encrypted file, and a bastion out of it again."""
