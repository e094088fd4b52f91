"""Machines with a kernel of their own, in user mode, for what one kernel cannot show."""
