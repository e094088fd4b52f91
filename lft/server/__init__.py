"""The server's parts."""
