"""Inputs are found in order, and no two results share a path."""

import os
import socket
import time
import unicodedata
from pathlib import PurePosixPath

import pytest

from utils.images import paths


def test_find_lists_images_below_in_order_and_leaves_results_out(tmp_path):
    for name in ("b.PNG", "a/z.jpeg", "a.webp", "notes.txt", ".hidden.png", "out/b.png", "ä ö.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = paths.find_images(tmp_path, tmp_path / "out")
    assert found == ["a.webp", "a/z.jpeg", "b.PNG", "ä ö.tif"]
    assert "out/b.png" in paths.find_images(tmp_path, tmp_path / "elsewhere")


def test_only_files_and_links_are_images(tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "a.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind("plug.png")
    os.symlink("nowhere", tmp_path / "broken.png")
    os.symlink("self.png", tmp_path / "self.png")
    assert paths.find_images(tmp_path, tmp_path / "out") == ["broken.png", "folder.png/a.png", "self.png"]


def test_a_folder_that_cannot_be_searched_is_said(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed/"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match="closed/: cannot be searched: Permission denied"):
        paths.find_images(tmp_path, tmp_path / "out")


def test_a_long_work_list_is_made_soon(tmp_path):
    for folder in range(20):
        (tmp_path / str(folder)).mkdir()
        for i in range(1000):
            os.close(os.open(f"{tmp_path}/{folder}/{i}.png", os.O_CREAT))
    start = time.process_time()
    names = paths.find_images(tmp_path, tmp_path / "out")
    targets = paths.result_names(names)
    assert time.process_time() - start < 3  # 0.1 s where nothing else runs
    assert len(names) == len(set(targets.values())) == 20_000


def test_what_is_left_alone_is_told_in_a_line_for_files_and_one_for_folders(tmp_path):
    names = ["a.png", "b.HEIC", "d/c.heic", "notes.txt", ".DS_Store", "d/._a.png", "Thumbs.db"]
    names += [
        f"{folder}/x.png" for folder in (".git", "@eaDir", "d/.thumbnails", "$RECYCLE.BIN", "lost+found")
    ]
    names += [
        ".ipynb_checkpoints/x.png",
        ".Trash-1000/x.png",
        "__MACOSX/x.png",
        "earlier/x.png",
        "mine/x.png",
    ]
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "in" / "earlier" / "run.json").write_text('{"key": "0", "settings": {}}')
    (tmp_path / "in" / "mine" / "run.json").write_text('{"laps": 7}')
    os.symlink(tmp_path, tmp_path / "in" / "loop")
    found = paths.search(tmp_path / "in", tmp_path / "out")
    assert found.names == ["a.png", "mine/x.png"]
    files, folders = found.describe()
    assert files.startswith("4 files left alone: 2 .heic, 1 ")
    assert folders.startswith("10 folders left alone: $RECYCLE.BIN (a hidden or system folder), ")
    assert folders.endswith(", ...")
    assert found.folders["loop"].startswith("a link, which is not followed")
    assert found.folders["earlier"] == "results of an earlier run"
    assert paths.search(tmp_path / "in" / "earlier", tmp_path / "out").names == ["x.png"]


def test_nothing_left_alone_is_not_told(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.xyz").touch()
    assert paths.search(tmp_path, tmp_path / "out").describe() == ["1 file left alone: 1 .xyz"]
    (tmp_path / "b.xyz").unlink()
    assert paths.search(tmp_path, tmp_path / "out").describe() == []


def test_an_empty_folder_is_an_error_that_says_what_is_there(tmp_path):
    with pytest.raises(ValueError, match="no images; found nothing"):
        paths.find_images(tmp_path, tmp_path / "out")
    (tmp_path / "a.heic").touch()
    with pytest.raises(ValueError, match=r"1 other file\(s\), such as a.heic"):
        paths.find_images(tmp_path, tmp_path / "out")


def test_result_names_keep_the_path_and_never_collide():
    names = ["a.jpg", "a.png", "b/a.png", "c.d.webp", "E.png", "e.jpg"]
    assert paths.result_names(names) == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png.png",
        "b/a.png": "b/a.png",
        "c.d.webp": "c.d.png",
        "E.png": "E.png.png",
        "e.jpg": "e.jpg.png",
    }


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a.png", "a.jpg.png"],
        ["a.jpg", "a.png", "a.jpg.png", "a.jpg.png.png", "a.png.png"],
        ["a.png", "A.png", "a.jpg", "A.jpg"],
        ["x/a.png", "X/a.png", "X/A.jpg"],
        ["a.jpg", "a.png/b.jpg", "a.png/b.png", "A.PNG/b.bmp"],
        ["a.jpg", "a.jpg.png/b.jpg", "a.png/b.jpg"],
        ["\u00e9.png", "e\u0301.png", "\u00e9.jpg"],
        ["\udcff.png", "\udcff.jpg", "\udcfe.png"],
        ["stra\u00dfe.png", "STRASSE.png"],
    ],
)
def test_results_share_no_name_in_any_case(names):
    found = paths.result_names(names)
    assert list(found) == names
    folded = {unicodedata.normalize("NFC", target).casefold() for target in found.values()}
    assert len(folded) == len(names)
    folders = {parent.as_posix().casefold() for name in names for parent in PurePosixPath(name).parents}
    assert not folders & folded
    for name, target in found.items():
        assert target.startswith(name.rpartition(".")[0])
        assert target.endswith(".png")
    assert found == {name: paths.result_names(names[::-1])[name] for name in names}


def test_only_names_that_would_collide_are_changed():
    found = paths.result_names(["a.jpg", "a.png", "a.jpg.png", "b.jpg", "A.b/c.png"])
    assert found == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png.png",
        "a.jpg.png": "a.jpg.png.png",
        "b.jpg": "b.png",
        "A.b/c.png": "A.b/c.png",
    }
