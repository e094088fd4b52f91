"""Files for running a server as a service."""
