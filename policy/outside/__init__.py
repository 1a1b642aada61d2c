"""What peers do for policyd, which has no network: scans by workers, calls by the courier."""
