"""Who can read a credential file, in the ways in which secrets are handed to a service."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from lft.accounts.account import Accounts
from lft.accounts.file import CredentialStore, change, load_credentials, save_credentials
from lft.accounts.privacy import ACL
from protocol import UsageError
from tests.support.scram import USERS

BOB, CARL = 54321, 54322
USER, OWNER, OWNING_GROUP, GROUP, MASK, OTHER = 0x02, 0x01, 0x04, 0x08, 0x10, 0x20


class People:
    """The accounts that the system knows, as a test says, and the group that is ours."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self._users: list[Any] = []
        self._in_group: list[str] = []
        patch.setattr(pwd, "getpwall", lambda: self._users)
        patch.setattr(pwd, "getpwuid", self._user)
        patch.setattr(
            grp, "getgrgid", lambda _: SimpleNamespace(gr_name="staff", gr_mem=self._in_group)
        )
        patch.setattr(os, "getgroups", list)

    def _user(self, number: int) -> Any:
        return {one.pw_uid: one for one in self._users}[number]

    def add(self, name: str, number: int, group: int = -1) -> None:
        """Let there be an account."""
        self._users.append(SimpleNamespace(pw_name=name, pw_uid=number, pw_gid=group))

    def put_into_group(self, name: str) -> None:
        """Let an account be in every group."""
        self._in_group.append(name)

    def be_in(self, group: int) -> None:
        """Let that be our group."""
        self._patch.setattr(os, "getegid", lambda: group)

    def be(self, user: int) -> None:
        """Let us be that user."""
        self._patch.setattr(os, "geteuid", lambda: user)


@pytest.fixture
def people(monkeypatch: pytest.MonkeyPatch) -> People:
    """A system without accounts."""
    return People(monkeypatch)


def group_of(path: Path) -> int:
    """Return the group of a file."""
    return path.stat().st_gid


def with_acl(path: Path, *entries: tuple[int, int, int]) -> None:
    """Give a file an ACL, as tag, rights and number; its owner may read and write."""
    whole = [(OWNER, 6, 2**32 - 1), *entries]
    data = b"".join(struct.pack("<HHI", *entry) for entry in sorted(whole))
    os.setxattr(path, ACL, struct.pack("<I", 2) + data)


def acl_for(user: int, mask: int = 4, other: int = 0) -> list[tuple[int, int, int]]:
    """Return an ACL that lets ``user`` read."""
    nobody = 2**32 - 1
    return [
        (USER, 4, user),
        (OWNING_GROUP, 0, nobody),
        (MASK, mask, nobody),
        (OTHER, other, nobody),
    ]


def refused(path: Path) -> str:
    """Return why a file is not taken."""
    with pytest.raises(UsageError, match=f"^credential file {re.escape(str(path))}: ") as caught:
        load_credentials(path)
    return str(caught.value).partition(": ")[2]


# --- readers ------------------------------------------------------------------------------------


def test_a_file_that_our_own_group_can_read_is_private(filled_file: Path, people: People) -> None:
    """root:service and 0640, as for PostgreSQL and nginx; also without a name for the group."""
    filled_file.chmod(0o640)
    people.be_in(group_of(filled_file))
    assert load_credentials(filled_file) == USERS


def test_one_that_a_supplementary_group_can_read_is_private_too(
    filled_file: Path, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes' ``fsGroup``."""
    filled_file.chmod(0o440)
    people.be_in(BOB)
    monkeypatch.setattr(os, "getgroups", lambda: [group_of(filled_file)])
    assert load_credentials(filled_file) == USERS


@pytest.mark.parametrize("how", ["primary", "member"])
def test_a_group_with_another_member_is_not_private(
    filled_file: Path, people: People, how: str
) -> None:
    """FAULTS 25: it is named, whichever way it came into the group."""
    filled_file.chmod(0o640)
    people.be_in(group_of(filled_file))
    people.add("bob", BOB, group_of(filled_file) if how == "primary" else -1)
    if how == "member":
        people.put_into_group("bob")
    assert refused(filled_file) == f"others (bob) can read it; chmod 600 {filled_file}"


def test_a_group_that_is_not_ours_is_not_private(filled_file: Path, people: People) -> None:
    """FAULTS 25: the system knows no members, and yet some process may be in it."""
    filled_file.chmod(0o640)
    people.be_in(group_of(filled_file) + 1)
    assert refused(filled_file).startswith("others (group staff, which is not ours) can read it; ")


def test_a_group_that_may_write_is_not_private(filled_file: Path, people: People) -> None:
    """FAULTS 25: nothing but ``auth.py`` of the owner should."""
    filled_file.chmod(0o660)
    people.be_in(group_of(filled_file))
    assert refused(filled_file) == f"its group can change it; chmod 600 {filled_file}"


def test_an_acl_for_us_alone_is_private(filled_file: Path, people: People) -> None:
    """systemd's ``LoadCredential=``: the mode says 0440 or more, and means the mask."""
    with_acl(filled_file, *acl_for(os.geteuid()))
    assert stat.S_IMODE(filled_file.stat().st_mode) == 0o640
    people.be_in(group_of(filled_file) + 1)
    assert load_credentials(filled_file) == USERS


@pytest.mark.parametrize(
    ("acl", "words"),
    [
        (acl_for(BOB), "others (bob) can read it"),
        (acl_for(BOB, mask=0), ""),
        (acl_for(0, mask=0, other=4), "others can read it"),
        ([*acl_for(0), (GROUP, 4, BOB)], "others (group staff, which is not ours) can read it"),
    ],
    ids=["another user", "a mask that leaves nothing", "others", "another group"],
)
def test_an_acl_for_others_is_not_private(
    filled_file: Path, people: People, acl: list[tuple[int, int, int]], words: str
) -> None:
    """FAULTS 25: what counts is what it grants in effect."""
    people.add("bob", BOB)
    people.be_in(CARL)
    with_acl(filled_file, *acl)
    if words:
        assert refused(filled_file).startswith(f"{words}; ")
    else:
        assert load_credentials(filled_file) == USERS


# --- what to do ---------------------------------------------------------------------------------


def fake(patch: pytest.MonkeyPatch, mode: int, user: int, group: int) -> None:
    """Let the system say this of every open file."""
    real = os.fstat

    def facts(descriptor: int) -> os.stat_result:
        own = list(real(descriptor))
        own[0], own[4], own[5] = stat.S_IFREG | mode, user, group
        return os.stat_result(own)

    patch.setattr(os, "fstat", facts)


def test_the_advice_for_a_file_of_root_is_for_root(
    filled_file: Path, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own user may not change its mode: docker's secrets have 0444."""
    people.be(BOB)
    fake(monkeypatch, 0o444, 0, 0)
    advice = f"as root, chown {BOB} {filled_file} and chmod 600 {filled_file}"
    assert refused(filled_file) == f"others can read it; {advice}"


def test_the_advice_for_a_read_only_mount_is_for_where_it_comes_from(
    filled_file: Path, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be changed here."""
    people.be(BOB)
    people.add("bob", BOB)
    fake(monkeypatch, 0o444, 0, 0)
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    advice = f"where it is mounted from, give it mode 0400 and the owner {BOB} (bob), or mode 0440"
    assert refused(filled_file).startswith(f"others can read it; {advice}")


def test_a_file_that_we_may_not_read_names_us(
    filled_file: Path, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system says no more than that permission is denied."""
    people.be(BOB)
    people.add("bob", BOB)
    refuse_to_open(monkeypatch, errno.EACCES, 0)
    assert refused(filled_file) == f"bob may not read it; as root, chown {BOB} {filled_file}"


# --- root edits the file of a server ------------------------------------------------------------


@pytest.mark.parametrize(("editing", "others", "taken"), [
    (True, ["bob"], True), (True, [], True), (True, ["bob", "carl"], False),
    (False, ["bob"], False),
])  # fmt: skip
def test_root_may_edit_what_one_other_account_can_read(
    filled_file: Path, people: People, monkeypatch: pytest.MonkeyPatch, editing: bool,
    others: list[str], taken: bool,
) -> None:  # fmt: skip
    """That account is the server's; a server that is root itself has no such excuse."""
    people.be(0)
    people.be_in(0)
    for number, name in enumerate(others, BOB):
        people.add(name, number, group=BOB)
    fake(monkeypatch, 0o640, 0, BOB)
    if taken:
        assert load_credentials(filled_file, editing=editing) == USERS
    else:
        with pytest.raises(UsageError, match="can read it"):
            load_credentials(filled_file, editing=editing)


def test_a_change_leaves_the_readers_of_the_file(filled_file: Path, people: People) -> None:
    """Otherwise root's ``auth.py add`` would take the file from the server."""
    people.be_in(group_of(filled_file))
    filled_file.chmod(0o640)
    change(filled_file, lambda old: old.with_users({}))
    assert stat.S_IMODE(filled_file.stat().st_mode) == 0o640
    with_acl(filled_file, *acl_for(os.geteuid()))
    before = os.getxattr(filled_file, ACL)
    change(filled_file, lambda old: old.with_users(USERS))
    assert os.getxattr(filled_file, ACL) == before
    assert load_credentials(filled_file) == USERS


# --- links --------------------------------------------------------------------------------------


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A directory as Kubernetes mounts a secret; return the file in it."""
    folder = tmp_path / "volume"
    folder.mkdir()
    (folder / "..data").symlink_to("..one")
    (folder / "users.json").symlink_to("..data/users.json")
    put(folder / "..one", USERS)
    return folder / "users.json"


def put(folder: Path, users: Any) -> None:
    """Make a version of the volume's files."""
    folder.mkdir()
    save_credentials(folder / "users.json", Accounts(users))


def test_a_link_of_ours_to_a_private_file_is_followed(volume: Path) -> None:
    """Over as many links as there are."""
    assert load_credentials(volume) == USERS


def test_a_running_server_sees_that_the_volume_has_changed(volume: Path) -> None:
    """Only the link in the middle does; the file's own stays."""
    store = CredentialStore(volume)
    put(volume.with_name("..two"), {"alice": USERS["user"]})
    new = volume.with_name("new")
    new.symlink_to("..two")
    new.replace(volume.with_name("..data"))
    assert list(store.current()) == ["alice"]


def test_a_link_to_a_file_that_others_can_read_is_refused(volume: Path) -> None:
    """FAULTS 25: the file counts, not the link."""
    volume.resolve().chmod(0o644)
    assert refused(volume).startswith("others can read it")


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda link: link.parent.chmod(0o777), "it is a symbolic link, and others can change "),
        (lambda link: link.resolve().parent.chmod(0o707), "it is a symbolic link, and others"),
        (lambda link: link.unlink() or link.symlink_to(link), "Too many levels of symbolic links"),
        (lambda link: link.resolve().unlink(), "No such file or directory"),
    ],
    ids=["its directory", "the directory it leads to", "to itself", "to nothing"],
)
def test_a_link_that_others_control_is_refused(volume: Path, spoil: Spoil, words: str) -> None:
    """FAULTS 25: they could lead us to another file of ours, with users that are gone."""
    spoil(volume)
    assert refused(volume).startswith(words)


def test_a_link_in_a_directory_where_all_may_write_but_not_replace_is_followed(
    volume: Path,
) -> None:
    """The sticky bit, which Kubernetes' volumes and /tmp have."""
    volume.parent.chmod(0o1777)
    assert load_credentials(volume) == USERS


def test_a_link_of_another_user_is_refused(
    volume: Path, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 25: it can be turned to another file at any time."""
    if os.geteuid() == 0:
        os.lchown(volume, BOB, -1)
    else:
        people.be(CARL)
    assert refused(volume).startswith("it is a symbolic link of user ")


def test_a_change_goes_through_a_link(volume: Path) -> None:
    """The link stays, and the lock and the new file are beside the old one."""
    place = volume.resolve()
    change(volume, lambda old: old.with_users({"alice": USERS["user"]}))
    assert volume.is_symlink()
    assert not place.is_symlink()
    assert list(load_credentials(place)) == ["alice"]
    assert {one.name for one in volume.parent.iterdir()} == {"..data", "..one", "users.json"}


# --- changes that cannot be ---------------------------------------------------------------------


def refuse_to_open(patch: pytest.MonkeyPatch, number: int, flag: int) -> None:
    """Let opening fail, if ``flag`` is among the flags."""
    real = os.open

    def opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & flag == flag:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **options)

    patch.setattr(os, "open", opened)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "it is mounted read-only; change it where it is mounted from"),
        (errno.EACCES, "this user may not change it; run auth.py as the owner of its directory"),
    ],
)
def test_a_file_that_cannot_be_changed_says_what_to_do(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """It names the credential file, not the lock beside it."""
    refuse_to_open(monkeypatch, number, os.O_CREAT)
    with pytest.raises(UsageError) as caught:
        change(filled_file, lambda old: old.with_users({}))
    assert str(caught.value) == f"credential file {filled_file}: {words}"
