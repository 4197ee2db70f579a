"""What record types and system calls mean: the rows that `audisp.shapes.activity` reads.

Actions, objects, ECS categories and types are auditbeat's (go-libaudit, aucoalesce, whose expected output is in the
corpus), so that searches and dashboards made for auditbeat find ours; docs/shapes/ecs.md says where they differ. All
pairs of category and type are such as ECS allows, and a test holds them to the published schema.

A row: names (record types, or system calls), action, categories, types, and then in any order
``what=`` the kind of object; ``object=``, ``detail=`` fields of the object; ``path=`` which PATH names it;
``second=`` fields of the second actor; ``actor=`` fields of the first; ``how=`` fields that say how;
``roles=`` whose accounts are meant (`audisp.shapes.activity.ROLES`); ``alert``, ``source`` (``addr`` is where it came
from), ``session`` (a user's session, SESSION). ``-`` is nothing. A line
that begins with a blank goes on with the row before it.
"""

from __future__ import annotations

from typing import Final

SESSION: Final = "what=user-session object=terminal detail=addr,hostname second=acct,id,uid how=exe,terminal"
"""What rows with ``session`` say beside what they say themselves."""

RECORDS: Final = """\
ACCT_LOCK locked-account iam user,info
ACCT_UNLOCK unlocked-account iam user,info
ADD_GROUP added-group-account-to iam group,creation what=account object=id,acct roles=group
ADD_USER added-user-account iam user,creation what=account object=id,acct roles=account
ANOM_ABEND crashed-program process,intrusion_detection end,info alert what=process object=comm,exe detail=pid how=sig
ANOM_EXEC attempted-execution-of-forbidden-program process,intrusion_detection start,info alert
 what=process object=cmd how=terminal
ANOM_LINK used-suspicious-link intrusion_detection info alert
ANOM_LOGIN_FAILURES failed-log-in-too-many-times-to intrusion_detection info alert session
ANOM_LOGIN_LOCATION attempted-log-in-from-unusual-place-to intrusion_detection info alert session
ANOM_LOGIN_SESSIONS opened-too-many-sessions-to intrusion_detection info alert session
ANOM_LOGIN_TIME attempted-log-in-during-unusual-hour-to intrusion_detection info alert session
ANOM_PROMISCUOUS changed-promiscuous-mode-on-device intrusion_detection info,change alert what=network-device object=dev
ANOM_RBAC_INTEGRITY_FAIL tested-file-system-integrity-of intrusion_detection info alert what=filesystem object=hostname
CHGRP_ID changed-group process change
CHUSER_ID changed-user-id process change
CONFIG_CHANGE changed-audit-configuration process,configuration change what=audit-config
 object=op,key,audit_enabled,audit_pid,audit_backlog_limit,audit_failure
CRED_ACQ acquired-credentials authentication info session roles=session
CRED_DISP disposed-credentials authentication info session roles=session
CRED_REFR refreshed-credentials authentication info session roles=session
CRYPTO_KEY_USER negotiated-crypto-key process info session source object=fp detail=addr,hostname
CRYPTO_LOGIN crypto-officer-logged-in - -
CRYPTO_LOGOUT crypto-officer-logged-out process info
CRYPTO_SESSION started-crypto-session process info session source object=addr detail=rport
DAC_CHECK access-result - -
DAEMON_ABORT aborted-auditd-startup process end what=service
DAEMON_ACCEPT remote-audit-connected network connection,start what=service
DAEMON_CLOSE remote-audit-disconnected network connection,end what=service
DAEMON_CONFIG changed-auditd-configuration process,configuration change what=service
DAEMON_END shutdown-audit process end what=service
DAEMON_ERR audit-error process info what=service
DAEMON_RECONFIG reconfigured-auditd process,configuration info what=service
DAEMON_RESUME resumed-audit-logging process change what=service
DAEMON_ROTATE rotated-audit-logs process change what=service
DAEMON_START started-audit process start what=service
DEL_GROUP deleted-group-account-from iam group,deletion what=account object=id,acct roles=group
DEL_USER deleted-user-account iam user,deletion what=account object=id,acct roles=account
FEATURE_CHANGE changed-audit-feature configuration change what=system object=feature
FS_RELABEL relabeled-filesystem - - what=mac-config
GRP_AUTH authenticated-to-group authentication info roles=session
GRP_CHAUTHTOK changed-group-password iam group,change session object=acct detail=- roles=group
GRP_MGMT modified-group-account iam group,change what=account object=id,grp,acct roles=group
KERNEL initialized-audit-subsystem process info
KERN_MODULE loaded-kernel-module driver start what=file object=name
LABEL_LEVEL_CHANGE modified-level-of - - what=printer object=printer
LABEL_OVERRIDE overrode-label-of - - what=mac-config
LOGIN changed-login-id-to authentication start what=user-session object=auid actor=old-auid roles=login
MAC_CHECK mac-permission - -
MAC_CONFIG_CHANGE changed-selinux-boolean configuration change what=mac-config object=bool
MAC_POLICY_LOAD loaded-selinux-policy configuration access what=mac-config
MAC_STATUS changed-selinux-enforcement configuration change what=mac-config object=enforcing
NETFILTER_CFG loaded-firewall-rule-to configuration change what=firewall object=table
ROLE_ASSIGN assigned-user-role-to iam user,change what=account object=id,acct
ROLE_MODIFY modified-role iam change
ROLE_REMOVE removed-user-role-from iam user,change what=account object=id,acct
SECCOMP violated-seccomp-policy - - what=process object=syscall
SELINUX_ERR caused-mac-policy-error - - what=system
SERVICE_START started-service process start what=service object=unit
SERVICE_STOP stopped-service process end what=service object=unit
SOFTWARE_UPDATE package-updated package info what=package object=sw
SYSTEM_BOOT booted-system host start what=system
SYSTEM_RUNLEVEL changed-to-runlevel host change what=system object=new-level
SYSTEM_SHUTDOWN shutdown-system host end what=system
TEST sent-test process info
TIME_ADJNTPVAL,TIME_INJOFFSET changed-system-time host change what=system
TRUSTED_APP unknown process info
TTY,USER_TTY typed - - what=keystrokes object=data how=comm,exe
USER sent-message - - object=addr
USER_ACCT was-authorized authentication info session roles=session
USER_AUTH authenticated authentication info session roles=session
USER_AVC access-permission - -
USER_CHAUTHTOK changed-password iam user,change session roles=target
USER_CMD ran-command process start what=process object=cmd
USER_END ended-session session end session roles=session
USER_ERR error authentication info session source roles=session
USER_LOGIN logged-in authentication start session source roles=session
USER_LOGOUT logged-out authentication end session roles=session
USER_MAC_CONFIG_CHANGE changed-mac-configuration configuration change what=mac-config
USER_MAC_POLICY_LOAD loaded-mac-policy configuration access what=mac-config
USER_MGMT modified-user-account iam user,change session roles=target
USER_ROLE_CHANGE changed-role-to - - session object=selected-context detail=-
USER_SELINUX_ERR access-error - -
USER_START started-session session start session source roles=session
USYS_CONFIG changed-configuration configuration change what=system object=op
VIRT_CONTROL issued-vm-control host info what=virtual-machine object=op detail=vm
VIRT_CREATE created-vm-image host info
VIRT_DESTROY deleted-vm-image host info
VIRT_INTEGRITY_CHECK checked-integrity-of host info
VIRT_MACHINE_ID assigned-vm-id host info what=virtual-machine object=vm
VIRT_MIGRATE_IN migrated-vm-from host info
VIRT_MIGRATE_OUT migrated-vm-to host info
VIRT_RESOURCE assigned-vm-resource host info what=virtual-machine object=resrc detail=vm
"""
"""Record types. An AVC's meaning is by its fields (AVC), an ANOM_ type's that is not here is ANOMALY."""

AVC: Final = """\
seresult violated-selinux-policy - - actor=scontext object=tcontext detail=tclass
apparmor violated-apparmor-policy - - what=policy object=operation detail=requested_mask,denied_mask,capname
"""
"""AVC by the field that says whose it is: SELinux, AppArmor."""

ANOMALY: Final = "* - intrusion_detection info alert"
"""Any other of the ANOM_ types: reported as an alert, without an action of its own."""

SYSCALLS: Final = """\
* - process info
creat opened-file file creation what=file
fallocate,truncate,ftruncate opened-file file change what=file
open,openat,readlink,readlinkat,openat2,open_by_handle_at opened-file file info what=file
read read-file file info what=file
write wrote-to-file file change what=file
setxattr,fsetxattr,lsetxattr,removexattr,fremovexattr,lremovexattr changed-file-attributes-of file change what=file
setxattrat,removexattrat changed-file-attributes-of file change what=file
chmod,fchmod,fchmodat,fchmodat2 changed-file-permissions-of file change what=file
chown,fchown,fchownat,lchown changed-file-ownership-of file change what=file
finit_module,init_module loaded-kernel-module driver start what=file object=name
delete_module unloaded-kernel-module driver end what=file
mkdir,mkdirat created-directory file creation what=file path=1
mount mounted file creation what=filesystem path=1
rename,renameat,renameat2 renamed file change what=file path=2
access,faccessat,faccessat2,fstatat,fstatat64,newfstatat,stat,stat64,fstat checked-metadata-of file info what=file
lstat,statx,getxattr,lgetxattr,fgetxattr checked-metadata-of file info what=file
statfs,fstatfs checked-filesystem-metadata-of file info what=filesystem
symlink,symlinkat symlinked file creation what=file
link,linkat linked file creation what=file path=2
umount,umount2 unmounted file deletion what=filesystem
rmdir,unlink,unlinkat deleted file deletion what=file
utime,utimes,futimesat,futimens,utimensat changed-timestamp-of file info what=file
execve,execveat executed process start what=file
listen listen-for-connections network start what=socket
accept,accept4 accepted-connection-from network connection,start what=socket
bind bound-socket network start what=socket
connect connected-to network connection,start what=socket
recv,recvfrom,recvmsg,recvmmsg received-from network connection,info what=socket
send,sendto,sendmsg,sendmmsg sent-to network connection,info what=socket
kill,tkill,tgkill killed-pid process end what=process
setuid,seteuid,setfsuid,setreuid,setgid,setegid,setfsgid changed-identity-of process change what=process how=syscall
setregid,setresuid,setresgid changed-identity-of process change what=process how=syscall
settimeofday,clock_settime,stime,adjtimex,clock_adjtime changed-system-time host change what=system
mknod,mknodat make-device file creation what=file
sethostname,setdomainname changed-system-name host change what=system
mmap,mmap2,brk allocated-memory process info what=memory
sched_setparam,sched_setscheduler,sched_setattr adjusted-scheduling-policy-of process change what=process how=syscall
"""
"""System calls, ``*`` any other. openat2, open_by_handle_at, setxattrat, removexattrat, fchmodat2, faccessat2,
fstatat64, statx, link and linkat are ours: auditbeat takes them for calls it knows nothing about."""
