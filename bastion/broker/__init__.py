"""The door for applications: secrets over a local socket or HTTPS, as BROKER.md says. policyd decides everything."""
