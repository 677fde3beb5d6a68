"""Everything that touches torch, always run in a process of its own."""
