"""Errors of the kernel, and keys of terminals. Written by tools/make_tables.py; do not edit.

Source: libaudit1 and libauparse0 3.0.9 (Debian), linux-headers-6.12.117+deb12-common (Debian); texts: strerror of
glibc (Debian 12).
"""

from __future__ import annotations

from typing import Final

ERRORS: Final = """\
1 EPERM Operation not permitted
2 ENOENT No such file or directory
3 ESRCH No such process
4 EINTR Interrupted system call
5 EIO Input/output error
6 ENXIO No such device or address
7 E2BIG Argument list too long
8 ENOEXEC Exec format error
9 EBADF Bad file descriptor
10 ECHILD No child processes
11 EAGAIN Resource temporarily unavailable
12 ENOMEM Cannot allocate memory
13 EACCES Permission denied
14 EFAULT Bad address
15 ENOTBLK Block device required
16 EBUSY Device or resource busy
17 EEXIST File exists
18 EXDEV Invalid cross-device link
19 ENODEV No such device
20 ENOTDIR Not a directory
21 EISDIR Is a directory
22 EINVAL Invalid argument
23 ENFILE Too many open files in system
24 EMFILE Too many open files
25 ENOTTY Inappropriate ioctl for device
26 ETXTBSY Text file busy
27 EFBIG File too large
28 ENOSPC No space left on device
29 ESPIPE Illegal seek
30 EROFS Read-only file system
31 EMLINK Too many links
32 EPIPE Broken pipe
33 EDOM Numerical argument out of domain
34 ERANGE Numerical result out of range
35 EDEADLK Resource deadlock avoided
36 ENAMETOOLONG File name too long
37 ENOLCK No locks available
38 ENOSYS Function not implemented
39 ENOTEMPTY Directory not empty
40 ELOOP Too many levels of symbolic links
42 ENOMSG No message of desired type
43 EIDRM Identifier removed
44 ECHRNG Channel number out of range
45 EL2NSYNC Level 2 not synchronized
46 EL3HLT Level 3 halted
47 EL3RST Level 3 reset
48 ELNRNG Link number out of range
49 EUNATCH Protocol driver not attached
50 ENOCSI No CSI structure available
51 EL2HLT Level 2 halted
52 EBADE Invalid exchange
53 EBADR Invalid request descriptor
54 EXFULL Exchange full
55 ENOANO No anode
56 EBADRQC Invalid request code
57 EBADSLT Invalid slot
59 EBFONT Bad font file format
60 ENOSTR Device not a stream
61 ENODATA No data available
62 ETIME Timer expired
63 ENOSR Out of streams resources
64 ENONET Machine is not on the network
65 ENOPKG Package not installed
66 EREMOTE Object is remote
67 ENOLINK Link has been severed
68 EADV Advertise error
69 ESRMNT Srmount error
70 ECOMM Communication error on send
71 EPROTO Protocol error
72 EMULTIHOP Multihop attempted
73 EDOTDOT RFS specific error
74 EBADMSG Bad message
75 EOVERFLOW Value too large for defined data type
76 ENOTUNIQ Name not unique on network
77 EBADFD File descriptor in bad state
78 EREMCHG Remote address changed
79 ELIBACC Can not access a needed shared library
80 ELIBBAD Accessing a corrupted shared library
81 ELIBSCN .lib section in a.out corrupted
82 ELIBMAX Attempting to link in too many shared libraries
83 ELIBEXEC Cannot exec a shared library directly
84 EILSEQ Invalid or incomplete multibyte or wide character
85 ERESTART Interrupted system call should be restarted
86 ESTRPIPE Streams pipe error
87 EUSERS Too many users
88 ENOTSOCK Socket operation on non-socket
89 EDESTADDRREQ Destination address required
90 EMSGSIZE Message too long
91 EPROTOTYPE Protocol wrong type for socket
92 ENOPROTOOPT Protocol not available
93 EPROTONOSUPPORT Protocol not supported
94 ESOCKTNOSUPPORT Socket type not supported
95 EOPNOTSUPP Operation not supported
96 EPFNOSUPPORT Protocol family not supported
97 EAFNOSUPPORT Address family not supported by protocol
98 EADDRINUSE Address already in use
99 EADDRNOTAVAIL Cannot assign requested address
100 ENETDOWN Network is down
101 ENETUNREACH Network is unreachable
102 ENETRESET Network dropped connection on reset
103 ECONNABORTED Software caused connection abort
104 ECONNRESET Connection reset by peer
105 ENOBUFS No buffer space available
106 EISCONN Transport endpoint is already connected
107 ENOTCONN Transport endpoint is not connected
108 ESHUTDOWN Cannot send after transport endpoint shutdown
109 ETOOMANYREFS Too many references: cannot splice
110 ETIMEDOUT Connection timed out
111 ECONNREFUSED Connection refused
112 EHOSTDOWN Host is down
113 EHOSTUNREACH No route to host
114 EALREADY Operation already in progress
115 EINPROGRESS Operation now in progress
116 ESTALE Stale file handle
117 EUCLEAN Structure needs cleaning
118 ENOTNAM Not a XENIX named type file
119 ENAVAIL No XENIX semaphores available
120 EISNAM Is a named type file
121 EREMOTEIO Remote I/O error
122 EDQUOT Disk quota exceeded
123 ENOMEDIUM No medium found
124 EMEDIUMTYPE Wrong medium type
125 ECANCELED Operation canceled
126 ENOKEY Required key not available
127 EKEYEXPIRED Key has expired
128 EKEYREVOKED Key has been revoked
129 EKEYREJECTED Key was rejected by service
130 EOWNERDEAD Owner died
131 ENOTRECOVERABLE State not recoverable
132 ERFKILL Operation not possible due to RF-kill
133 EHWPOISON Memory page has hardware error
512 ERESTARTSYS Unknown error 512
513 ERESTARTNOINTR Unknown error 513
514 ERESTARTNOHAND Unknown error 514
515 ENOIOCTLCMD Unknown error 515
516 ERESTART_RESTARTBLOCK Unknown error 516
517 EPROBE_DEFER Unknown error 517
518 EOPENSTALE Unknown error 518
519 ENOPARAM Unknown error 519
521 EBADHANDLE Unknown error 521
522 ENOTSYNC Unknown error 522
523 EBADCOOKIE Unknown error 523
524 ENOTSUPP Unknown error 524
525 ETOOSMALL Unknown error 525
526 ESERVERFAULT Unknown error 526
527 EBADTYPE Unknown error 527
528 EJUKEBOX Unknown error 528
529 EIOCBQUEUED Unknown error 529
530 ERECALLCONFLICT Unknown error 530
531 ENOGRACE Unknown error 531
"""
"""Number, name, text; one error a line."""

TTY_KEYS: Final = (
    "01 ^A 02 ^B 03 ^C 04 ^D 05 ^E 06 ^F 07 ^G 08 backspace 09 tab 0a nl 0b ^K 0c ^L 0d ret 0e ^N 0f ^O 10 ^P 11 ^Q 12 "
    "^R 13 ^S 14 ^T 15 ^U 16 ^V 17 ^W 18 ^X 19 ^Y 1a ^Z 1b esc 7f backspace 1b09 back-tab 1b41 up 1b42 down 1b43 right "
    "1b44 left 1b46 end 1b4a clear 1b50 delete 1b51 insert 1b53 page-down 1b54 page-up 1b68 home 1b70 F1 1b71 F2 1b72 "
    "F3 1b73 F4 1b74 F5 1b75 F6 1b76 F7 1b77 F8 1b5b39 delete 1b5b40 F41 1b5b41 up 1b5b42 down 1b5b43 right 1b5b44 "
    "left 1b5b45 B2 1b5b46 end 1b5b47 B2 1b5b48 home 1b5b49 page-up 1b5b4c insert 1b5b4d mouse 1b5b4e F2 1b5b4f F3 "
    "1b5b50 F4 1b5b51 F5 1b5b52 F6 1b5b53 F7 1b5b54 F8 1b5b55 F9 1b5b56 F10 1b5b57 F11 1b5b58 F12 1b5b59 F13 1b5b5a "
    "back-tab 1b5b5b F42 1b5b5c F43 1b5b5d F44 1b5b5e F45 1b5b5f F46 1b5b60 F47 1b5b61 F15 1b5b62 F16 1b5b63 "
    "shift-right 1b5b64 shift-left 1b5b65 F19 1b5b66 F20 1b5b67 F21 1b5b68 F22 1b5b69 F23 1b5b6a F24 1b5b6b F25 1b5b6c "
    "F26 1b5b6d F27 1b5b6e F28 1b5b6f F29 1b5b70 F30 1b5b71 F31 1b5b72 F32 1b5b73 F33 1b5b74 F34 1b5b75 F35 1b5b76 F36 "
    "1b5b77 F37 1b5b78 F38 1b5b79 F39 1b5b7a F40 1b5b7b F48 1b4f41 up 1b4f42 down 1b4f43 right 1b4f44 left 1b4f45 B2 "
    "1b4f46 end 1b4f48 home 1b4f4d send 1b4f50 F1 1b4f51 F2 1b4f52 F3 1b4f53 F4 1b4f54 F5 1b4f55 F6 1b4f56 F7 1b4f57 "
    "F8 1b4f58 F9 1b4f59 F10 1b4f5a F11 1b4f5b F12 1b4f6c F8 1b4f6e C3 1b4f70 C1 1b4f71 C1 1b4f72 B2 1b4f73 C3 1b4f74 "
    "F5 1b4f75 B2 1b4f76 F7 1b4f77 A1 1b4f78 F10 1b4f79 A3 1b5b5b41 F1 1b5b5b42 F2 1b5b5b43 F3 1b5b5b44 F4 1b5b5b45 F5 "
    "1b5b317e home 1b5b327e insert 1b5b3224 shift-insert 1b5b337e delete 1b5b3324 shift-del 1b5b347e end 1b5b357e "
    "page-up 1b5b3524 shift-previous 1b5b367e page-down 1b5b3624 shift-next 1b5b377e home 1b5b3724 shift-home 1b5b387e "
    "end 1b5b385e delete-eol 1b5b3824 shift-end 1b5b31317e F1 1b5b31315e F23 1b5b31327e F2 1b5b31325e F24 1b5b31337e "
    "F3 1b5b31335e F25 1b5b31347e F4 1b5b31345e F26 1b5b31357e F5 1b5b31355e F27 1b5b31377e F6 1b5b31375e F28 "
    "1b5b31387e F7 1b5b31385e F29 1b5b31397e F8 1b5b31395e F30 1b5b32307e F9 1b5b32305e F31 1b5b32317e F10 1b5b32315e "
    "F32 1b5b32337e F11 1b5b32335e F33 1b5b323324 F21 1b5b323340 F43 1b5b32347e F12 1b5b32345e F34 1b5b323424 F22 "
    "1b5b323440 F44 1b5b32357e F13 1b5b32355e F35 1b5b32367e F14 1b5b32365e F36 1b5b32387e F15 1b5b32385e F37 "
    "1b5b32397e F16 1b5b32395e F38 1b5b33307e insert-line 1b5b33317e F17 1b5b33315e F39 1b5b33327e F18 1b5b33325e F40 "
    "1b5b33337e F19 1b5b33335e F41 1b5b33347e F20 1b5b33345e F42 1b5b313b3241 scroll-backward 1b5b313b3242 "
    "scroll-forward 1b5b313b3243 shift-right 1b5b313b3244 shift-left 1b5b313b3246 shift-end 1b5b313b3248 shift-home"
)
"""What a key sends, in hexadecimal, and its name."""
