"""Accounts: their file, their passwords, logins and tokens, and what a user may send."""
