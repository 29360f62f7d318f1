"""Files that others can have written are not read, and nothing is stored beside them."""

from __future__ import annotations

import os
import warnings

import pytest

from fmmloopy.common import trust
from fmmloopy.common.store import keep, kept, read_cached, write_cached
from fmmloopy.common.trust import CacheWarning, UntrustedError, check_trusted

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with one file, of this test's own."""
    monkeypatch.setenv("FMMLOOPY_CACHE_DIR", str(tmp_path / "cache"))
    trust.warn_once.cache_clear()
    write_cached(tmp_path / "cache" / "code" / "file", "content")
    return tmp_path / "cache"


def test_new_folders_are_private_whatever_the_umask(tmp_path, monkeypatch):
    monkeypatch.setenv("FMMLOOPY_CACHE_DIR", str(tmp_path / "a" / "cache"))
    before = os.umask(0)
    try:
        write_cached(tmp_path / "a" / "cache" / "code" / "file", "content")
    finally:
        os.umask(before)
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in (tmp_path / "a").rglob("*") if folder.is_dir())
    assert read_cached(tmp_path / "a" / "cache" / "code" / "file") == b"content"


def test_folders_above_the_cache_do_not_matter(cache):
    """Somebody else's folder in its place has another owner."""
    cache.parent.chmod(0o777)
    write_cached(cache / "file", "content")
    assert read_cached(cache / "file") == b"content"


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
@pytest.mark.parametrize("where", ["", "code"])
def test_a_folder_that_others_can_write_is_not_used(cache, where, mode):
    (cache / where).chmod(mode)
    said = rf"can be written by others \(mode {mode:o}\); to use it: chmod -R go-w"
    with pytest.warns(CacheWarning, match=said), pytest.raises(UntrustedError):
        read_cached(cache / "code" / "file")
    with pytest.raises(UntrustedError):
        write_cached(cache / "code" / "other", "content")
    assert not (cache / "code" / "other").exists()


def test_the_command_of_the_warning_helps(cache):
    cache.chmod(0o777)
    with pytest.warns(CacheWarning) as record, pytest.raises(UntrustedError):
        read_cached(cache / "code" / "file")
    command = str(record[0].message).partition("to use it: ")[2]
    assert os.system(command) == 0
    assert read_cached(cache / "code" / "file") == b"content"


def test_it_is_said_once(cache):
    cache.chmod(0o777)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        for _ in range(3):
            assert kept(cache / "code" / "file", "key") is None
            keep(cache / "code" / "file", "key", 1)
    assert len(record) == 1


def test_a_planted_file_is_ignored_and_replaced(cache):
    path = cache / "code" / "planted"
    keep(path, "key", {"source": "harmful"})
    path.chmod(0o666)
    with pytest.warns(CacheWarning, match="planted can be written by others"):
        assert kept(path, "key") is None
    keep(path, "key", {"source": "good"})
    assert kept(path, "key") == {"source": "good"}


def test_what_belongs_to_another_user_is_not_used(cache, monkeypatch):
    path, owner = cache / "code" / "file", os.geteuid()
    monkeypatch.setattr(trust, "SYSTEM_OWNER", -1)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UntrustedError, match=f"belongs to user {owner}, expected {owner + 1}; to use it: rm -r"):
        check_trusted(path, cache)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the administrator gives files away")
def test_a_file_that_another_user_has_left_is_not_used(cache):
    os.chown(cache / "code" / "file", 65534, 65534)
    with pytest.warns(CacheWarning, match="belongs to user 65534"), pytest.raises(UntrustedError):
        read_cached(cache / "code" / "file")


def test_a_group_of_one_user_may_write_to_folders_of_other_packages(cache, monkeypatch):
    cache.chmod(0o770)
    monkeypatch.setattr(trust, "_has_one_member", lambda group: True)
    check_trusted(cache, cache, own_group=True)
    monkeypatch.setattr(trust, "_has_one_member", lambda group: False)
    with pytest.raises(UntrustedError):
        check_trusted(cache, cache, own_group=True)
