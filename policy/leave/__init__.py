"""Leave for a time: requests, votes, grants, tokens, broken glass, and watchers."""
