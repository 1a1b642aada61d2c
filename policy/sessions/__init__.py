"""Sessions: leave to dial, the credential, what lives, and its end."""
