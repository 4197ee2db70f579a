"""Capabilities given up for real, each time in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from audisp.dispatch.privileges import (
    CAPABILITIES,
    FOR_USERS,
    PrivilegeError,
    capability_number,
    current,
    keep,
    names,
    out_of_reach,
)
from tests.needs import ROOT, needs

RUN = """
import os, re, subprocess, sys, threading
sys.path[:0] = [{root!r}]
from audisp.dispatch.privileges import PrivilegeError, current, keep
def status(pid="self"):
    text = open(f"/proc/{{pid}}/status").read()
    return {{key: int(value, 16) for key, value in re.findall(r"(Cap[A-Z][a-z]+):\\s*(\\S+)", text)}}
"""


def run(script: str) -> list[str]:
    """The lines that `script` prints, run in a fresh interpreter."""
    text = RUN.format(root=str(ROOT)) + script
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_names_and_numbers() -> None:
    assert CAPABILITIES["cap_chown"] == 0
    assert CAPABILITIES["cap_audit_control"] == 30
    assert CAPABILITIES["cap_audit_read"] == 37
    assert CAPABILITIES["cap_checkpoint_restore"] == 40 == len(CAPABILITIES) - 1
    assert capability_number("CAP_NET_ADMIN") == capability_number("net_admin") == 12
    assert capability_number("cap_nonsense") is None
    assert names(1 << 0 | 1 << 37 | 1 << 50) == ["cap_chown", "cap_audit_read", "cap_50"]
    assert names(0) == []


def test_the_table_is_the_kernels() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("needs linux/capability.h (apt-get install linux-libc-dev)")
    words = [line.split() for line in header.read_text().splitlines() if line.startswith("#define CAP_")]
    theirs = {word[1].lower(): int(word[2]) for word in words if len(word) == 3 and word[2].isdigit()}
    assert theirs == {name: number for name, number in CAPABILITIES.items() if name in theirs}
    assert len(theirs) > 35


def test_current_is_what_proc_says() -> None:
    text = Path("/proc/thread-self/status").read_text()
    mask = next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapEff"))
    assert current() == set(names(mask))


@needs("root")
def test_keep_for_good() -> None:
    lines = run("""
for line in keep({"cap_audit_control": ["source netlink"], "CAP_CHOWN": ["plugin log", "plugin af_unix"]}): print(line)
print(sorted(current()))
mine = status()
print(mine["CapPrm"] == mine["CapEff"] == (1 << 30 | 1 << 0), mine["CapInh"], mine["CapAmb"])
try:
    import socket; socket.sethostname(socket.gethostname())
except PermissionError as error:
    print("refused")
print(keep({"cap_chown": [], "cap_setuid": ["user"]}))
""")
    assert lines[0] == "kept cap_audit_control: source netlink"
    assert lines[1] == "kept cap_chown: plugin log, plugin af_unix"
    assert lines[2].startswith("gave up ")
    assert lines[3:6] == ["['cap_audit_control', 'cap_chown']", "True 0 0", "refused"]
    assert lines[6] == (
        "['kept cap_chown: no reason given', 'do not have cap_setuid, needed by: user', 'gave up 1 capabilities of 2']"
    )


@needs("root")
def test_children_of_root_get_theirs_back() -> None:
    """Documented in the module: what root executes has the bounding set, as auditd's plugins expect."""
    lines = run("""
before = status()["CapBnd"]
keep({"cap_audit_control": ["source"]})
done = subprocess.run(["/bin/cat", "/proc/self/status"], capture_output=True, text=True)
theirs = int(re.search(r"CapEff:\\s*(\\S+)", done.stdout)[1], 16)
print(theirs == before == status()["CapBnd"], status()["CapEff"] == 1 << 30)
""")
    assert lines == ["True True"]


@needs("root")
def test_a_kept_process_can_still_set_a_childs_user(tmp_path: Path) -> None:
    report = tmp_path / "report"
    lines = run(
        f"report = {str(report)!r}\n"
        + """
os.chdir("/")
from audisp.dispatch.launch import launch
import select
keep({"cap_audit_control": ["source"]})
read, write = os.pipe()
os.dup2(write, 1)
child = launch(("/bin/grep", "-E", "^(Uid|CapEff)", "/proc/self/status"), stdin_fd=0, stderr_fd=2, stdout="inherit",
    user="nobody", capabilities=["cap_chown"])
select.select([child.pidfd], [], [], 30)
sys.stderr.flush()
os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
print(child.poll(), os.read(read, 4096), file=open(report, "w"))
"""
    )
    assert lines == []
    text = report.read_text()
    assert "65534\\t65534\\t65534\\t65534" in text
    assert "0000000000000001" in text
    assert "exit status 0" in text


@needs("root")
@pytest.mark.parametrize("kept", [(), FOR_USERS])
def test_signals_to_a_child_with_a_user_need_what_the_module_says(kept: tuple[str, ...]) -> None:
    lines = run(
        f"kept = {kept!r}\n"
        + """
import select, signal, time
os.chdir("/")
from audisp.dispatch.launch import launch
keep(dict.fromkeys(kept, ["test"]))
read, write = os.pipe()
child = launch(("/bin/cat",), stdin_fd=read, stderr_fd=2, user="nobody")
while open(f"/proc/{child.pid}/comm").read() != "cat\\n": time.sleep(0.01)
try:
    print(child.signal(signal.SIGKILL))
except PermissionError:
    print("may not")
os.close(write); os.close(read)
select.select([child.pidfd], [], [], 30)
print(child.poll().description)
"""
    )
    assert lines == (["True", "killed by SIGKILL"] if kept else ["may not", "exit status 0"])


@needs("root")
def test_a_second_thread_is_refused() -> None:
    lines = run("""
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
try:
    keep({})
except PrivilegeError as error:
    print(error)
stop.set(); thread.join()
print(len(current()) > 1)
print(keep({})[-1].startswith("gave up"), current())
""")
    assert lines == [
        "capabilities must be given up before threads start, and 2 threads exist",
        "True",
        "True set()",
    ]


@needs("root")
def test_without_root_there_is_nothing_to_give_up() -> None:
    lines = run("""
os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
print(keep({"cap_chown": ["log"]}), current())
""")
    assert lines == ["[] set()"]


def test_a_name_that_is_none() -> None:
    if os.geteuid() == 0:
        assert current()
    with pytest.raises(PrivilegeError, match="'cap_everything' is no capability"):
        keep({"cap_everything": ["nobody"]})


def test_what_root_without_capabilities_cannot_reach(tmp_path: Path) -> None:
    # pytest's folders are ours alone; the user that counts is the one who asks.
    file = tmp_path / "home" / "file"
    file.parent.mkdir(0o700)
    file.write_text("")
    assert not out_of_reach(file)
    assert not out_of_reach(tmp_path / "missing")
    file.parent.chmod(0o600)
    assert out_of_reach(file)
    file.parent.chmod(0o700)
    file.chmod(0o200)
    assert out_of_reach(file)


@needs("root")
def test_a_home_folder_is_out_of_reach_of_root(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(0o700)
    (home / "file").write_text("")
    os.chown(home, 65_534, 65_534)
    assert out_of_reach(home)
    assert out_of_reach(home / "file")
    home.chmod(0o755)
    assert not out_of_reach(home / "file")
