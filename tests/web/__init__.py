"""The HTTP side: requests, logins, answers, and what a browser needs."""
