"""The three programs, from their command lines to their exit codes."""
