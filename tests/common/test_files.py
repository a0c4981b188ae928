"""Files with unexpected content are recognised."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile

import numpy as np
import pytest
import torch

from recbole_mambarec_common.files import what_it_is


def saved(writer, *args, **kwargs) -> bytes:
    stream = io.BytesIO()
    writer(stream, *args, **kwargs)
    return stream.getvalue()


def packed() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("features.txt"))
    return stream.getvalue()


NUMBERS = np.arange(600, dtype=np.float32).reshape(100, 6)
ARRAY = saved(np.save, NUMBERS)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"
S3_ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>'
TENSORS = saved(lambda stream: torch.save(torch.from_numpy(NUMBERS), stream))
OLD_TENSORS = saved(lambda stream: torch.save(torch.from_numpy(NUMBERS), stream, _use_new_zipfile_serialization=False))
TABLE = "user_id:token\titem_id:token\nu1\ti1\n"


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (LFS, "a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (b"/annex/objects/SHA256E-s123--abc.npy\n", "run `git annex get`"),
        (b"../.git/annex/objects/X1/2z/SHA256E-s123--abc.npy/SHA256E-s123--abc.npy", "run `git annex get`"),
        (b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>", "an HTML page"),
        (b"<head>\n</head><HTML>", "an HTML page"),
        (S3_ERROR, "an XML document"),
        (json.dumps({"asin": "B0", "overall": 5}).encode(), "JSON text"),
        (gzip.compress(ARRAY, mtime=0), "unpack it with `gunzip`"),
        (bz2.compress(ARRAY), "unpack it with `bunzip2`"),
        (lzma.compress(ARRAY), "unpack it with `unxz`"),
        (packed(), "a tar archive"),
        (saved(np.savez, image=NUMBERS, text=NUMBERS), "an .npz archive (of 'image', 'text')"),
        (TENSORS, "a PyTorch file"),
        (OLD_TENSORS, "a PyTorch file"),
        (pickle.dumps({"u": [1, 2]}), "a Python pickle"),
        (saved(np.save, np.array([[1.0], [2.0, 3.0]], dtype=object), allow_pickle=True), "pickled Python objects"),
        (ARRAY[:-7], f"a truncated NumPy array ({len(ARRAY) - 7} of {len(ARRAY)} bytes)"),
        (ARRAY[:40], "a NumPy array whose header is damaged"),
        (ARRAY, "a NumPy array of float32 of shape (100, 6)"),
        (TENSORS[: len(TENSORS) // 2], "a zip archive that is damaged or truncated"),
        (TABLE.encode("utf-16"), "text in UTF-16"),
        (TABLE.encode("utf-16-be"), "text in UTF-16"),
        (TABLE.encode("utf-32"), "text in UTF-32"),
        (b"", "an empty file"),
        (bytes(10_000), "nothing but zero bytes"),
    ],
)
def test_a_file_is_recognised_by_its_content(tmp_path, content, phrase):
    path = tmp_path / "books.image.npy"
    path.write_bytes(content)
    assert phrase in what_it_is(path)


@pytest.mark.parametrize(
    "content", [TABLE.encode(), b"\xef\xbb\xbf" + TABLE.encode(), b"\x07\x01\x02 something", b"hello"]
)
def test_what_is_unknown_is_not_named(tmp_path, content):
    path = tmp_path / "books.inter"
    path.write_bytes(content)
    assert what_it_is(path) is None


def test_zeros_at_the_start_do_not_mean_an_empty_file(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(bytes(5000) + b"abc")
    assert what_it_is(path) is None


def test_missing_files_folders_and_links(tmp_path):
    assert what_it_is(tmp_path / "none.npy") is None
    assert what_it_is(tmp_path) == "a folder"
    annexed, dangling = tmp_path / "a.npy", tmp_path / "b.npy"
    try:
        annexed.symlink_to(tmp_path / ".git" / "annex" / "objects" / "Kx" / "data.npy")
        dangling.symlink_to("elsewhere.npy")
    except OSError:
        pytest.skip("links cannot be made here")
    assert "git annex get" in what_it_is(annexed)
    assert what_it_is(dangling) == "a link to elsewhere.npy, which does not exist"


def test_nothing_is_unpickled(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path / "harm").touch, ()

    for name, content in {
        "a.pkl": pickle.dumps(Harmful()),
        "a.npy": saved(np.save, np.array([Harmful()], dtype=object), allow_pickle=True),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert "can run code" in what_it_is(tmp_path / name)
    assert not (tmp_path / "harm").exists()
