"""What auparse's normaliser says of system calls and record types. Written by tools/make_normal.py; do not edit.

Source: libauparse0 3.0.9 (Debian), asked with one event for each.
"""

# ruff: noqa: E501 - a row is a row

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSCALLS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "accepted-connection-from socket saddr": "accept accept4",
        "adjusted-scheduling-policy-of! process exe": "sched_setparam sched_setscheduler sched_setattr",
        "allocated-memory-in memory comm": "mmap brk",
        "bound-socket socket saddr": "bind",
        "changed-file-attributes-of file 2*": "setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr",
        "changed-file-ownership-of file 2*": "chown fchown lchown fchownat",
        "changed-file-permissions-of file 2*": "chmod fchmod fchmodat",
        "changed-identity-of! process exe": "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid",
        "changed-system-name system -": "sethostname setdomainname",
        "changed-system-time system -": "adjtimex settimeofday clock_settime stime",
        "changed-timestamp-of file 2*": "utime utimes futimesat utimensat",
        "checked-filesystem-metadata-of file-system 2*": "statfs fstatfs",
        "checked-metadata-of file 2*": "stat fstat lstat access newfstatat faccessat statx faccessat2 stat64",
        "connected-to socket saddr": "connect",
        "created-directory file 3*": "mkdir mkdirat",
        "deleted file 2*": "rmdir unlink unlinkat",
        "executed file 3*": "execve execveat",
        "killed-pid process opid": "kill tkill tgkill",
        "loaded-kernel-module file -": "init_module finit_module",
        "make-device unknown 2*": "mknod mknodat",
        "mounted file-system 3*": "mount move_mount fsmount fspick",
        "opened-file file 2": "open truncate ftruncate creat readlink openat readlinkat fallocate memfd_create openat2",
        "received-from socket saddr": "recvfrom recvmsg",
        "renamed file 4*": "rename renameat renameat2",
        "sent-to socket saddr": "sendto sendmsg",
        "symlinked file 4*": "symlink symlinkat",
        "unloaded-kernel-module file -": "delete_module",
        "unmounted file-system 2*": "umount2 umount",
    }
)
"""Names of system calls, by action, kind of object, and where the object is: ``N`` is the first PATH that is no
PARENT from the event's record N on, ``N*`` one whose mode says the kind, ``-`` nowhere, anything else the name of a
field. After an action with ``!``, how it was done is the system call."""

COMPOUNDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "=op audit-config key": "CONFIG_CHANGE",
        "accessed-mac-policy-controlled-object ^ ^": "AVC",
        "accessed-policy-controlled-file ^ ^": "FANOTIFY",
        "caused-mac-policy-error system -": "SELINUX_ERR",
        "changed-selinux-boolean mac-config bool": "MAC_CONFIG_CHANGE",
        "changed-selinux-enforcement-to mac-config enforcing": "MAC_STATUS",
        "changed-system-time system -": "TIME_INJOFFSET TIME_ADJNTPVAL",
        "disconnected-from socket nl-mcgrp": "EVENT_LISTENER",
        "left-promiscuous-mode-on-device socket dev": "ANOM_PROMISCUOUS",
        "loaded-firewall-rule-to firewall table": "NETFILTER_CFG",
        "loaded-kernel-module file syscall": "KERN_MODULE",
        "loaded-selinux-policy mac-config -": "MAC_POLICY_LOAD",
        "unloaded-bpf-program process prog-id": "BPF",
        "used-suspcious-link unknown -": "ANOM_LINK",
    }
)
"""Names of record types that say what an event with a SYSCALL record is about, by action, kind of object, object
(``path``: the first PATH that is no PARENT). ``^``: as without that record."""

TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TTY typed keystrokes data": "USER_TTY",
        "TTY typed keystrokes data - auid uid uid comm": "TTY",
        "anomaly - unknown -": (
            "ANOM_LOGIN_ACCT ANOM_MAX_DAC ANOM_MAX_MAC ANOM_AMTU_FAIL ANOM_RBAC_FAIL ANOM_CRYPTO_FAIL ANOM_ACCESS_FS "
            "ANOM_MK_EXEC ANOM_ADD_ACCT ANOM_DEL_ACCT ANOM_MOD_ACCT ANOM_ROOT_TRANS ANOM_LOGIN_SERVICE ANOM_LOGIN_ROOT "
            "ANOM_ORIGIN_FAILURES ANOM_SESSION"
        ),
        "anomaly attempted-execution-of-forbidden-program process cmd - auid uid uid terminal": "ANOM_EXEC",
        "anomaly attempted-log-in-during-unusual-hour-to user-session acct": "ANOM_LOGIN_TIME",
        "anomaly attempted-log-in-from-unusual-place-to user-session acct": "ANOM_LOGIN_LOCATION",
        "anomaly changed-socket-promiscuous-mode socket dev - auid uid uid -": "ANOM_PROMISCUOUS",
        "anomaly crashed-program process exe - auid uid uid sig": "ANOM_ABEND",
        "anomaly created-suspicious-file unknown -": "ANOM_CREAT",
        "anomaly failed-log-in-too-many-times-to user-session acct": "ANOM_LOGIN_FAILURES",
        "anomaly opened-too-many-sessions-to user-session acct": "ANOM_LOGIN_SESSIONS",
        "anomaly used-suspcious-link unknown -": "ANOM_LINK",
        "anomaly-response - unknown -": (
            "RESP_ANOMALY RESP_ALERT RESP_KILL_PROC RESP_TERM_ACCESS RESP_ACCT_REMOTE RESP_ACCT_LOCK_TIMED "
            "RESP_ACCT_UNLOCK_TIMED RESP_ACCT_LOCK RESP_TERM_LOCK RESP_SEBOOL RESP_EXEC RESP_SINGLE RESP_HALT "
            "RESP_ORIGIN_BLOCK RESP_ORIGIN_BLOCK_TIMED RESP_ORIGIN_UNBLOCK_TIMED"
        ),
        "audit-daemon aborted-auditd-startup service - - auid uid AUDITD -": "DAEMON_ABORT",
        "audit-daemon audit-error service - - auid uid AUDITD -": "DAEMON_ERR",
        "audit-daemon changed-auditd-configuration service - - auid uid AUDITD SIGNAL": "DAEMON_CONFIG",
        "audit-daemon disconnected-from socket nl-mcgrp": "EVENT_LISTENER",
        "audit-daemon remote-audit-connected service - - auid uid AUDITD -": "DAEMON_ACCEPT",
        "audit-daemon remote-audit-disconnected service - - auid uid AUDITD -": "DAEMON_CLOSE",
        "audit-daemon resumed-audit-logging service - - auid uid AUDITD SIGNAL": "DAEMON_RESUME",
        "audit-daemon rotated-audit-logs service - - auid uid AUDITD SIGNAL": "DAEMON_ROTATE",
        "audit-daemon shutdown-audit service - - auid uid AUDITD SIGNAL": "DAEMON_END",
        "audit-daemon started-audit service - - auid uid AUDITD INIT": "DAEMON_START",
        "audit-rule - unknown -": (
            "PATH IPC SOCKETCALL SOCKADDR CWD EXECVE IPC_SET_PERM MQ_OPEN MQ_SENDRECV MQ_NOTIFY MQ_GETSETATTR FD_PAIR "
            "OBJ_PID BPRM_FCAPS CAPSET MMAP NETFILTER_PKT"
        ),
        "av-decision accessed-policy-controlled-file unknown -": "FANOTIFY",
        "bpf-program unloaded-bpf-program process prog-id - - - SYSTEM -": "BPF",
        "configuration - unknown -": "TIME_INJOFFSET TIME_ADJNTPVAL",
        "configuration =op keystrokes device": "USER_DEVICE",
        "configuration =op system -": "USYS_CONFIG",
        "configuration changed-audit-configuration audit-config key,audit_enabled,audit_pid,audit_backlog_limit - auid - - -": (
            "CONFIG_CHANGE"
        ),
        "configuration changed-audit-feature system feature": "FEATURE_CHANGE",
        "configuration installed-software software sw sw_type auid uid uid exe": "SOFTWARE_UPDATE",
        "configuration loaded-firewall-rule-to firewall table - - - SYSTEM comm": "NETFILTER_CFG",
        "crypto - unknown -": (
            "CRYPTO_TEST_USER CRYPTO_PARAM_CHANGE_USER CRYPTO_FAILURE_USER CRYPTO_REPLAY_USER CRYPTO_IKE_SA "
            "CRYPTO_IPSEC_SA"
        ),
        "crypto crypto-officer-logged-in unknown -": "CRYPTO_LOGIN",
        "crypto crypto-officer-logged-out unknown -": "CRYPTO_LOGOUT",
        "crypto negotiated-crypto-key user-session fp": "CRYPTO_KEY_USER",
        "crypto started-crypto-session user-session addr rport auid uid uid exe": "CRYPTO_SESSION",
        "dac-decision called-seccomp-controlled-syscall process syscall": "SECCOMP",
        "group-change authenticated-to-group unknown -": "GRP_AUTH",
        "group-change changed-group unknown -": "CHGRP_ID",
        "integrity - unknown -": (
            "INTEGRITY_DATA INTEGRITY_METADATA INTEGRITY_STATUS INTEGRITY_HASH INTEGRITY_PCR INTEGRITY_RULE "
            "INTEGRITY_EVM_XATTR INTEGRITY_POLICY_RULE"
        ),
        "integrity tested-file-system-integrity-of file-system hostname": "ANOM_RBAC_INTEGRITY_FAIL",
        "mac - mac-config -": "DEV_ALLOC DEV_DEALLOC",
        "mac - mac-config - - auid - auid -": (
            "MAC_CIPSOV4_ADD MAC_CIPSOV4_DEL MAC_IPSEC_ADDSA MAC_IPSEC_DELSA MAC_IPSEC_ADDSPD MAC_IPSEC_DELSPD "
            "MAC_IPSEC_EVENT MAC_UNLBL_STCADD MAC_UNLBL_STCDEL MAC_CALIPSO_ADD MAC_CALIPSO_DEL IPE_ACCESS "
            "IPE_CONFIG_CHANGE IPE_POLICY_LOAD MAC_TASK_CONTEXTS MAC_OBJ_CONTEXTS"
        ),
        "mac - unknown -": (
            "APPARMOR APPARMOR_AUDIT APPARMOR_HINT APPARMOR_STATUS USER_LABELED_EXPORT USER_UNLABELED_EXPORT"
        ),
        "mac added-mac-network-domain-mapping-to mac-config nlbl_domain - auid - auid -": "MAC_MAP_ADD",
        "mac assigned-user-role-to account id,acct": "ROLE_ASSIGN",
        "mac changed-mac-configuration mac-config -": "USER_MAC_CONFIG_CHANGE",
        "mac changed-role-to user-session selected-context": "USER_ROLE_CHANGE",
        "mac changed-selinux-boolean mac-config bool": "MAC_CONFIG_CHANGE",
        "mac changed-selinux-enforcement-to mac-config enforcing": "MAC_STATUS",
        "mac changed-selinux-enforcement-to unknown -": "USER_MAC_STATUS",
        "mac deleted-mac-network-domain-mapping-from mac-config nlbl_domain - auid - auid -": "MAC_MAP_DEL",
        "mac is-disallowing-unlabeled-network-traffic mac-config - - auid - auid -": "MAC_UNLBL_ALLOW",
        "mac loaded-mac-policy mac-config -": "USER_MAC_POLICY_LOAD",
        "mac loaded-selinux-policy mac-config -": "MAC_POLICY_LOAD",
        "mac modified-level-of printer printer": "LABEL_LEVEL_CHANGE",
        "mac modified-role mac-config -": "ROLE_MODIFY",
        "mac overrode-label-of mac-config -": "LABEL_OVERRIDE",
        "mac relabeled-filesystem mac-config -": "FS_RELABEL",
        "mac removed-use-role-from account id,acct": "ROLE_REMOVE",
        "mac-decision - unknown -": "SELINUX_ERR AVC_PATH APPARMOR_ALLOWED APPARMOR_DENIED APPARMOR_ERROR",
        "mac-decision access-error unknown -": "USER_SELINUX_ERR",
        "mac-decision accessed-mac-policy-controlled-object unknown tcontext - scontext - UNKNOWN-ACCT comm": "AVC",
        "mac-decision accessed-mac-policy-controlled-object unknown tcontext - scontext,auid uid uid exe": "USER_AVC",
        "system-services booted-system system -": "SYSTEM_BOOT",
        "system-services changed-to-runlevel system new-level": "SYSTEM_RUNLEVEL",
        "system-services initialized-audit-subsystem unknown -": "KERNEL",
        "system-services shutdown-system service -": "SYSTEM_SHUTDOWN",
        "system-services started-service service unit": "SERVICE_START",
        "system-services stopped-service service unit": "SERVICE_STOP",
        "unknown access-result unknown -": "DAC_CHECK",
        "unknown loaded-kernel-module unknown -": "KERN_MODULE",
        "unknown mac-permission unknown -": "MAC_CHECK",
        "unknown sent-message unknown addr": "USER",
        "user-account added-group-account-to account id,acct": "ADD_GROUP",
        "user-account added-user-account account id,acct": "ADD_USER",
        "user-account changed-group-password user-session acct": "GRP_CHAUTHTOK",
        "user-account deleted-group-account-from account id,acct": "DEL_GROUP",
        "user-account deleted-user-account account id,acct": "DEL_USER",
        "user-account locked-account account id,acct": "ACCT_LOCK",
        "user-account modified-group-account account id,acct": "GRP_MGMT",
        "user-account modified-user-account account id,acct": "USER_MGMT",
        "user-account unlocked-account account id,acct": "ACCT_UNLOCK",
        "user-login acquired-credentials user-session acct": "CRED_ACQ",
        "user-login authenticated user-session acct": "USER_AUTH",
        "user-login caused-account-error user-session terminal": "USER_ERR",
        "user-login changed-login-id-to user-session auid - old-auid uid uid -": "LOGIN",
        "user-login changed-password user-session acct": "USER_CHAUTHTOK",
        "user-login disposed-credentials user-session acct": "CRED_DISP",
        "user-login ended-session user-session terminal": "USER_END",
        "user-login logged-in user-session terminal - id,acct - id exe": "USER_LOGIN",
        "user-login logged-out user-session terminal": "USER_LOGOUT",
        "user-login refreshed-credentials user-session acct": "CRED_REFR",
        "user-login started-session user-session terminal": "USER_START",
        "user-login was-authorized user-session acct": "USER_ACCT",
        "user-space changed-user-id unknown -": "CHUSER_ID",
        "user-space ran-command process cmd": "USER_CMD",
        "user-space sent-test unknown -": "TEST",
        "user-space unknown unknown - - auid uid UNKNOWN-ACCT exe": "TRUSTED_APP",
        "virt assigned-vm-id virtual-machine vm": "VIRT_MACHINE_ID",
        "virt assigned-vm-resource virtual-machine resrc": "VIRT_RESOURCE",
        "virt checked-integrity-of unknown -": "VIRT_INTEGRITY_CHECK",
        "virt created-vm-image unknown -": "VIRT_CREATE",
        "virt deleted-vm-image unknown -": "VIRT_DESTROY",
        "virt issued-vm-control virtual-machine op": "VIRT_CONTROL",
        "virt migrated-vm-from unknown -": "VIRT_MIGRATE_IN",
        "virt migrated-vm-to unknown -": "VIRT_MIGRATE_OUT",
    }
)
"""Names of record types, by event kind, action, kind of object, object, second object, subject, second subject, kind of
subject, how; the last five are as in USUAL where there are but four. Fields by name, several with a comma: the first
that is there. ``=op``: the word that stands in that field. Capitals: that word itself, in small letters. ``-``: nothing."""

UNKNOWN: Final = "unknown - unknown -"
"""The same of any other type."""
USUAL: Final = " - auid uid uid exe"
"""Second object, subject, second subject, kind of subject, how."""
