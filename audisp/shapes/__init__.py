"""Shapes: an event as bytes in a form that somebody reads. Pure; one class per shape, one module each."""
