"""The client's parts."""
