"""Every row of the fault catalogue against the real process, over loopback. docs/faults.md is what came of it."""
