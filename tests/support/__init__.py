"""Helpers of several tests and tools: servers, clients, networks, files."""
