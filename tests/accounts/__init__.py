"""Accounts: their file, their logins, their tokens and their limits."""
