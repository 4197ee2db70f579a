"""The TLS side of `syslog`: whom we trust, who we are. There is no way to switch a check off.

Files are checked and read through one descriptor. They are read again for every connection, so that a renewed
certificate needs no reload.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from audisp.plugin import PluginError

PUBLIC: Final = 0o022
"""Mode bits that a certificate's file must not have: who could write to it would say whom we trust."""
SECRET: Final = 0o027
"""Mode bits that a key's file must not have. Reading is allowed to its group, as Debian's ssl-cert has it."""


@contextmanager
def _checked(path: Path, forbidden: int) -> Iterator[str]:
    """A path by which OpenSSL reads the very file that was checked. Raises PluginError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise PluginError(f"{path}: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISREG(found.st_mode):
            raise PluginError(f"{path}: is not a regular file")
        if found.st_uid not in (0, os.geteuid()):
            raise PluginError(f"{path}: is owned by uid {found.st_uid}; it must be root or we (uid {os.geteuid()})")
        if mode & forbidden:
            what = "read or written" if mode & forbidden & 0o004 else "written"
            raise PluginError(f"{path}: mode {mode:04o} lets it be {what} by others: chmod {mode & ~forbidden:04o}")
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _no_password() -> NoReturn:
    # Without this OpenSSL would ask for one on the terminal, and wait.
    raise PluginError("is encrypted, and nobody is there to type its password; store the key without one")


def client_context(ca: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer; the server's chain and host name are verified. Raises PluginError naming the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and checks the host name, unless told otherwise
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    with _checked(ca, PUBLIC) as path:
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise PluginError(f"{ca}: holds no certificate that can be used ({error.reason or error})") from error
    if certificate is not None and key is not None:
        with _checked(certificate, PUBLIC) as cert_path, _checked(key, SECRET) as key_path:
            try:
                context.load_cert_chain(cert_path, key_path, _no_password)
            except PluginError as error:
                raise PluginError(f"{key}: {error}") from error
            except ssl.SSLError as error:
                raise PluginError(f"{certificate}, {key}: no certificate and its key ({error.reason})") from error
    return context


def reason(error: OSError) -> str:
    """What went wrong, for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    return error.strerror or str(error)
