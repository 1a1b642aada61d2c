"""SSH keys and certificates: judged, made, signed with. Pure."""
