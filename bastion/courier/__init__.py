"""The courier: every call to the outside that policyd needs, so that policyd itself runs without a network."""
