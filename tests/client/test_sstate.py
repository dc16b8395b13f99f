"""Names of an sstate cache, as OE-core's releases and several listings write them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardhash.client.sstate import names_below, unihashes_in, unihashes_of

A, B, C = "a1" * 32, "b2" * 32, "c3" * 32
NAME = f"sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:{A}_package.tar.zst"
words = st.text("abcxyz019.+_", max_size=8)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)


@pytest.mark.parametrize(
    "line",
    [
        NAME,
        f"universal/a1/a1/sstate:perl:::5.38::12:{A}_populate_lic.tar.zst\n",
        f"./a1/sstate:zlib-native:x86_64-linux:1.2.11:r0:x86_64:3:{A}_populate_sysroot.tgz",
        f"sstate-zlib-i586-poky-linux-1.2.7-r0-i586-2-{A}_deploy-rpm.tgz".replace("deploy-rpm", "deploy_rpm"),
        f"2026-11-28 10:00:00    1234567 sstate/a1/a1/{NAME}",
        f"-rw-r--r-- 2 me me 12345 Nov 28 10:00 {NAME}",
        f'<a href="{quote(NAME)}">{NAME[:20]}...</a>',
        f"<Key>sstate/{NAME}</Key>",
        f"gs://bucket/sstate/{NAME}#1",
    ],
)
def test_an_object_is_known(line: str) -> None:
    assert unihashes_of(line) == [A]


@pytest.mark.parametrize(
    "line",
    [
        f"{NAME}.siginfo",
        f"{NAME}.sig",
        f"{NAME}.done",
        f"{NAME}.abcdef",
        f"{quote(NAME)}.siginfo",
        f"sstate:zlib:core2-64:12:{A[:40]}_package.tar.zst",
        f"sstate:zlib:core2-64:12:0{A}_package.tar.zst",
        f"sstate:zlib:core2-64:12:{A.upper()}_package.tar.zst",
        f"sstate:zlib:core2-64:12:{A}.tar.zst",
        "",
        "%",
    ],
)
def test_what_holds_no_output_is_none(line: str) -> None:
    assert unihashes_of(line) == []


@given(st.lists(words, min_size=1, max_size=7), hashes, st.sampled_from(["package", "populate_sysroot", "deploy"]))
def test_names_of_any_recipe(parts: list[str], unihash: str, task: str) -> None:
    for separator in ":-":
        name = f"sstate{separator}{separator.join(parts)}{separator}{unihash}_{task}.tar.zst"
        assert unihashes_of(name) == unihashes_of(quote(name)) == [unihash]
        assert unihashes_of(name + ".siginfo") == []


@given(st.text())
def test_any_text_is_a_listing(text: str) -> None:
    assert list(unihashes_in(text.splitlines())) == []


def test_a_folder_is_walked(tmp_path: Path) -> None:
    """As SSTATE_DIR is laid out, with a link into a mirror, a broken one, and one that leads back."""
    cache, mirror = tmp_path / "sstate", tmp_path / "mirror"
    for folder, name in (
        (cache / "a1" / "a1", NAME),
        (cache / "a1" / "a1", NAME + ".siginfo"),
        (cache / "universal" / "c3" / "c3", f"sstate:perl:::5::12:{C}_populate_lic.tar.zst.siginfo"),
        (mirror, f"sstate:busybox:x:1:r0:x:12:{B}_package.tar.zst"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (cache / "b2").symlink_to(mirror)
    (mirror / "back").symlink_to(cache)
    (cache / f"sstate:gone:x:1:r0:x:12:{C}_package.tar.zst").symlink_to(tmp_path / "gone")
    assert sorted(unihashes_in(names_below(str(cache)))) == [A, B]
    with pytest.raises(FileNotFoundError):
        list(names_below(str(tmp_path / "nowhere")))
