"""The sender: records from standard input, through a spool on disk, to a collector or to auditd."""
