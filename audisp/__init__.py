"""audisp: the audit event dispatcher, successor of audispd, in Python on trio."""

__version__ = "0.1.0"
