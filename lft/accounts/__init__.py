"""Users: their credentials, logins, tokens, and what they may send."""
