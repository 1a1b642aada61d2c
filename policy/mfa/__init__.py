"""Second factors. The only folder that imports pyotp."""
