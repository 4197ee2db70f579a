"""What a live host knows of an event's process beyond the event: where it runs, who started it, what it was told."""
