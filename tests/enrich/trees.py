"""A /proc of our own making, on disk: what a reader finds there is what a test put there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

HZ: Final = os.sysconf("SC_CLK_TCK")
HOST_NAMESPACE: Final = "pid:[4026531836]"


class Tree:
    """root: the folder that stands for /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = str(root)
        (root / "self" / "ns").mkdir(parents=True)
        (root / "self" / "ns" / "pid").symlink_to(HOST_NAMESPACE)
        (root / "uptime").write_text("1 1\n")
        (root / "bin").mkdir()

    def program(self, name: str) -> Path:
        """A file that `exe` links can lead to."""
        path = self.root / "bin" / name
        if not path.exists():
            path.write_text(name)
        return path

    def add(
        self,
        pid: int,
        *,
        ppid: int = 1,
        ticks: int = 1000,
        comm: str = "prog",
        exe: str | None = "prog",
        argv: tuple[str, ...] = ("prog",),
        cgroup: str = "0::/system.slice/prog.service\n",
        environ: tuple[str, ...] = ("HOME=/root",),
        nspid: str | None = None,
        memory: int = 4096,
    ) -> Path:
        """One process, in the place of any that had its number."""
        folder = self.root / str(pid)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        fields = ["S", str(ppid)] + ["0"] * 17 + [str(ticks)] + ["0"] * 25 + [str(memory + n) for n in range(4)] + ["0"]
        (folder / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)}\n")
        (folder / "cgroup").write_text(cgroup)
        (folder / "cmdline").write_text("".join(word + "\0" for word in argv))
        (folder / "environ").write_text("".join(word + "\0" for word in environ))
        (folder / "status").write_text(f"Name:\t{comm}\nNSpid:\t{nspid or pid}\nGroups:\t0\n")
        if exe is not None:
            (folder / "exe").symlink_to(self.program(exe))
        return folder

    def end(self, pid: int) -> None:
        """The process is gone."""
        shutil.rmtree(self.root / str(pid))


def hang(folder: Path, name: str) -> Path:
    """Make reading one file of a process hang, until somebody opens it for writing."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    return folder / name


def release(fifo: Path, text: str = "") -> None:
    """Let a read that hangs go on, with this content. OSError if none hangs."""
    fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, text.encode())
    os.close(fd)
