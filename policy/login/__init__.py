"""Who is there: the login dialogue, the factors that prove a person, and what is remembered of them."""
