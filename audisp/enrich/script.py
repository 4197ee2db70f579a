"""The script behind an interpreter, from the PATH records of an exec.

The kernel records every file that an execve opens: first the one that was asked for, then, if that is a script (or
whatever else binfmt_misc(5) runs), its interpreter, then the dynamic loader. `exe` is the file that really runs; it is
one of these. So the question is only which one: the first, then there is no script, or a later one, then the first is
the script.

laurel compares the first file's inode with the exe's, and calls everything else a script. That says too much where a
file's numbers differ from what stat(2) shows: btrfs shows another device for each subvolume, overlayfs (every
container) may show another device and inode than the kernel records. So here a file has to be recognised, and what is
not recognised is unknown:

1. The name asked for is `exe` itself: no script. Needs no look at the file, and is most of all starts.
2. Device and inode of `exe`, which the caller has from /proc/PID/exe, are one item's.
3. The inode alone, if just one of the items has it.
4. The same device, and another inode than the first file's: numbers that can be compared, so it is another file.
"""

from __future__ import annotations

from collections.abc import Sequence

from audisp.enrich.facts import PathItem
from audisp.parse.processes import UNKNOWN, Unknown


def absolute(name: str, cwd: str | None) -> str | None:
    """The path with the working directory before it where it is relative; ``.`` and ``//`` gone, ``..`` left where it
    is (what it means depends on links). None if the working directory is wanted and not known."""
    if not name.startswith("/"):
        if cwd is None or not cwd.startswith("/"):
            return None
        name = f"{cwd}/{name}"
    return "/" + "/".join(part for part in name.split("/") if part not in ("", "."))


def script_of(
    paths: Sequence[PathItem], exe: str | None, exe_file: tuple[str, int] | None, cwd: str | None
) -> str | Unknown | None:
    """The script that a program was started for, as an absolute path; None if there is none.

    paths: the PATH records by item, the one asked for first. exe_file: device and inode of the exe, if they are known.
    """
    if not paths:
        return UNKNOWN
    first = paths[0]
    script = None if first.name is None else absolute(first.name, cwd)
    if exe is not None and script == exe:
        return None
    if exe_file is None or first.inode is None or first.dev is None:
        return UNKNOWN
    device, inode = exe_file
    exact = [(item.dev, item.inode) == exe_file for item in paths]
    if any(exact):
        return None if exact[0] else _said(script)
    alike = {(item.dev, item.inode) for item in paths if item.inode == inode}
    if len(alike) == 1:
        return None if first.inode == inode else _said(script)
    if not alike and first.dev == device:
        return _said(script)
    return UNKNOWN


def _said(script: str | None) -> str | Unknown:
    return UNKNOWN if script is None else script
