"""`audisp key`: its arguments. What it does is in `audisp.cli.key_actions`, which is imported when it is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_key(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `key` and its subcommands."""
    parser = commands.add_parser(
        "key",
        help="make and check keys for forwarding",
        description="Make keys for forwarding over TLS, derive them from a master key, check "
        "key files and lists of clients. Standard output is for use as it is, standard error for people.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    each = actions.add_parser(
        "new",
        help="make a key",
        description="Write 32 random bytes to a new key file of mode 0400, and print the line that lets their owner "
        "into a collector's tls_allowed_clients.",
    )
    each.add_argument("identity", nargs="?", metavar="IDENTITY", help="of the host, as web1 or web1#2 for its 2nd key")
    each.add_argument("--master", action="store_true", help="a key for no host, to derive hosts' keys from")
    each.add_argument("--out", type=Path, metavar="FILE", help="default IDENTITY.key, or master.key, in this folder")
    each = actions.add_parser(
        "derive",
        help="make a host's key of a master key",
        description="Derive the key of one host and epoch, as the collector does for itself. Without --out the content "
        "of the key file goes to standard output, for a pipe. The master key is never printed.",
    )
    each.add_argument("--master", type=Path, required=True, metavar="FILE", help="the collector's tls_psk_master")
    each.add_argument("--identity", required=True, metavar="IDENTITY", help="of the host, without an epoch")
    each.add_argument("--epoch", type=int, default=0, metavar="N", help="default 0, which is not stated on the wire")
    each.add_argument("--out", type=Path, metavar="FILE", help="a new file, of mode 0400")
    each = actions.add_parser(
        "check",
        help="say what is wrong with key files and lists of clients",
        description="Read key files and lists as a collector would. Exit status: 0 all is well, 1 it is not.",
    )
    each.add_argument("files", nargs="+", type=Path, metavar="FILE", help="key files and lists; which is which is seen")
    each.add_argument("--psk-file", type=Path, metavar="FILE", help="tls_psk_file, for lists without key=")
    each.add_argument("--master", type=Path, metavar="FILE", help="tls_psk_master, for lists without key=")
    each.add_argument("--epoch", type=int, action="append", metavar="N", help="a live one; repeatable, default 0")
