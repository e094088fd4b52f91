"""The server as a browser or another program sees it: HTTP, for reading and sending files."""
