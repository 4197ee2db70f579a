"""Remote protocols as state machines, bytes in, events out: `rmw*` that of the C programs, `native_*` our own."""
