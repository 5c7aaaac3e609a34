"""Everything that waits: joins a stack, its devices and a clock."""
