"""Capabilities that plugins need, as far as their settings say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from audisp.config.plugins import PluginConf
from audisp.dispatch import privileges
from audisp.dispatch.made import isolated

OUTPUT: Final = "output"
"""The bundled plugin that writes to files and programs; its keys say what it needs."""

Need = Callable[[str, str], None]
"""Takes a capability and, in words, who needs it."""


def plugin_needs(confs: Iterable[PluginConf], need: Need) -> None:
    """Name what these plugins need, of capabilities."""
    confs = tuple(confs)
    if any(conf.command or isolated(conf) for conf in confs):
        # Of those without `user =`, too: many, such as laurel, become another user by themselves.
        for capability in privileges.FOR_USERS:
            need(capability, "child programs and isolated plugins: end those that run as another user")
    if any(isolated(conf) and conf.user is not None for conf in confs):
        need("cap_chown", "isolated plugins: give each a folder of its own")
    if any(_asks(conf, "command") for conf in confs):
        need("cap_kill", "output: end its programs that run as another user")
    if any(_asks(conf, "group") for conf in confs):
        need("cap_chown", "output: group")


def _asks(conf: PluginConf, key: str) -> bool:
    return conf.plugin == OUTPUT and any(setting.key == key for setting in conf.settings)
