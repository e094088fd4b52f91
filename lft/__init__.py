"""The rooms that client.py, server.py and auth.py are built from; README.md describes them."""
