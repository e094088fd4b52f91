"""Whether a file with secrets is private: only root and we can read it, or change what is read.

Secrets come in several ways: with mode 0600 and our own, of root and readable by our group, of root
and with an ACL for us (systemd's ``LoadCredential=``), or behind links of root (Kubernetes). What
counts is which accounts may use the file, not what its mode looks like.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
import struct
from pathlib import Path
from typing import Iterator, NamedTuple

ACL = "system.posix_acl_access"  # acl(5), as Linux keeps it: a version, then entries
_ENTRY = struct.Struct("<HHI")
_USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER = 0x02, 0x04, 0x08, 0x10, 0x20  # tags of entries
_READ, _WRITE = 4, 2
_MOST_LINKS = 40  # in a row, as many as the system follows


class NotPrivateError(ValueError):
    """Another account can read a file or change it; the text says which one, and what to do."""


class _Grant(NamedTuple):
    """What an account that is not the owner, or a group, may do."""

    tag: int
    rights: int
    id: int

    def allows(self, right: int) -> bool:
        return bool(self.rights & right)


def follow_links(path: Path) -> Path:
    """Return where ``path`` leads. Raises ``NotPrivateError`` where others could lead it elsewhere.

    Raises ``OSError`` if it leads nowhere.
    """
    for _ in range(_MOST_LINKS):
        facts = os.lstat(path)
        if not stat.S_ISLNK(facts.st_mode):
            return path
        if facts.st_uid not in _own_users():
            raise NotPrivateError(f"it is a symbolic link of {_user(facts.st_uid)}")
        _check_directory(path.parent)
        path = path.parent / os.readlink(path)
        _check_directory(path.parent)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _check_directory(path: Path) -> None:
    """Raise ``NotPrivateError`` unless only we and root can replace what others have there."""
    facts = os.stat(path)
    if facts.st_uid not in _own_users():
        owner = _user(facts.st_uid)
        raise NotPrivateError(f"it is a symbolic link, and {owner} owns the directory {path}")
    if facts.st_mode & stat.S_ISVTX:  # only the owner of a file replaces it
        return
    for grant in _grants(path, facts):
        found = grant.allows(_WRITE) and _strangers(grant)
        if found:
            raise NotPrivateError(f"it is a symbolic link, and {found} can change {path}")


def check_private(descriptor: int, path: Path, *, editing: bool = False) -> None:
    """Raise ``NotPrivateError`` unless the file is private, with what to do about it.

    Root may be ``editing`` the file of a server that has an account of its own: then that one may
    read it.
    """
    facts = os.fstat(descriptor)
    if facts.st_uid not in _own_users():  # its owner can change it at any time
        owner = _user(facts.st_uid)
        raise NotPrivateError(f"it belongs to another user, {owner}; {_advice(descriptor, path)}")
    for grant in _grants(descriptor, facts):
        trouble = _trouble(grant, editing=editing and os.geteuid() == 0)
        if trouble:
            raise NotPrivateError(f"{trouble} it; {_advice(descriptor, path)}")


def _trouble(grant: _Grant, *, editing: bool) -> str:
    """Say which account can do what to a file; "" if none can that should not."""
    strangers = _strangers(grant, editing=editing)
    if strangers:
        return f"{strangers} can {'read' if grant.allows(_READ) else 'change'}"
    if grant.allows(_WRITE) and (grant.tag != _USER or grant.id not in _own_users()):
        return "its group can change" if grant.tag == _GROUP else f"{_user(grant.id)} can change"
    return ""


def _grants(file: int | Path, facts: os.stat_result) -> Iterator[_Grant]:
    """Give what a file or directory grants beyond its owner: by its ACL, otherwise by its mode."""
    acl = _acl(file)
    if acl is None:
        yield _Grant(_OTHER, facts.st_mode & 7, 0)
        yield _Grant(_GROUP, facts.st_mode >> 3 & 7, facts.st_gid)
        return
    entries = [_Grant(*entry) for entry in _ENTRY.iter_unpack(acl[4:])]
    mask = next((entry.rights for entry in entries if entry.tag == _MASK), 7)
    for tag, rights, number in entries:
        if tag == _OWNING_GROUP:
            yield _Grant(_GROUP, rights & mask, facts.st_gid)
        elif tag in (_USER, _GROUP):
            yield _Grant(tag, rights & mask, number)
        elif tag == _OTHER:
            yield _Grant(tag, rights, 0)


def _acl(file: int | Path) -> bytes | None:
    """Return the access ACL; ``None`` if there is none, or if this system has no such thing."""
    try:
        return os.getxattr(file, ACL)
    except AttributeError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return None


def copy_access(old: int, new: int) -> None:
    """Give an open file owner, group, mode and ACL of another one, as far as the system lets us."""
    facts = os.fstat(old)
    for user, group in ((-1, facts.st_gid), (facts.st_uid, -1)):
        with contextlib.suppress(PermissionError):
            os.fchown(new, user, group)
    if os.fstat(new).st_gid != facts.st_gid:
        return  # another group would read it
    os.fchmod(new, stat.S_IMODE(facts.st_mode) & 0o640)
    acl = _acl(old)
    if acl is not None:
        os.setxattr(new, ACL, acl)


def _strangers(grant: _Grant, *, editing: bool = False) -> str:
    """Name an account that has a grant and should not; "" if there is none.

    When root edits, one account besides root is that of the server.
    """
    if not grant.rights:
        return ""
    if grant.tag == _OTHER:
        return "others"
    users = {grant.id} if grant.tag == _USER else _members(grant.id)
    strangers = users - _own_users()
    if editing and len(strangers) <= 1:
        return ""
    named = f"others ({_user(min(strangers))})" if strangers else ""
    ours = grant.tag == _USER or editing or grant.id in (os.getegid(), *os.getgroups())
    return named or ("" if ours else f"others (group {_group(grant.id)}, which is not ours)")


def _own_users() -> set[int]:
    return {0, os.geteuid()}


def _members(group: int) -> set[int]:
    """Return the accounts of a group that the system knows."""
    users = {user.pw_uid: user for user in pwd.getpwall()}
    try:
        names = set(grp.getgrgid(group).gr_mem)
    except KeyError:  # it has a number alone, as in a container
        names = set()
    return {
        number for number, user in users.items() if user.pw_gid == group or user.pw_name in names
    }


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def chown_advice(path: Path) -> str:
    """Say what lets us read a file that we may not read."""
    we = os.geteuid()
    return f"{_user(we)} may not read it; as root, chown {we} {path}"


def _advice(descriptor: int, path: Path) -> str:
    """Say what makes a file private for us."""
    facts, we = os.fstat(descriptor), os.geteuid()
    if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
        owner = f"mode 0400 and the owner {we} ({_user(we)})"
        return f"where it is mounted from, give it {owner}, or mode 0440 and a group of ours alone"
    if facts.st_uid == we:
        return f"chmod 600 {path}"
    if we == 0:
        return f"run this as {_user(facts.st_uid)}, or chown root {path} and chmod 600 {path}"
    return f"as root, chown {we} {path} and chmod 600 {path}"
