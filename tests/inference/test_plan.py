"""What the command `stylize` finds out before it loads a model: which images, where to, and all that is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from stylezoo.errors import StylezooError
from stylezoo.images import write_image
from stylezoo.inference.plan import (
    MANIFEST,
    Job,
    Plan,
    Request,
    check_folder,
    free_name,
    make_plan,
    read_manifest,
    read_pairs,
    write_manifest,
)
from stylezoo.inference.shards import Meeting, Shard


def picture(path: Path, height: int = 20, width: int = 24) -> str:
    write_image(torch.rand(3, height, width), path)
    return str(path)


@pytest.fixture
def style(tmp_path: Path) -> str:
    return picture(tmp_path / "styles" / "waves.png")


def planned(content: str | list[str], style: str | list[str], output: Path, **others: object) -> Plan:
    contents, styles = ([x] if isinstance(x, str) else x for x in (content, style))
    return make_plan(Request(contents, styles, output, **others))  # type: ignore[arg-type]


def names(plan: Plan) -> list[str]:
    return [job.target.name for job in plan.jobs]


@pytest.mark.parametrize(
    "kind", ["same", "other spelling", "relative", "link", "hard link", "linked folder", "style", "mask"]
)
def test_an_output_never_replaces_an_input(
    kind: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "photos" / "photo.png"
    before = Path(picture(photo)).read_bytes()
    others: dict[str, object] = {}
    output = photo
    if kind == "other spelling":
        output = tmp_path / "photos" / ".." / "photos" / "photo.png"
    elif kind == "relative":
        monkeypatch.chdir(photo.parent)
        output = Path("photo.png")
    elif kind == "link":
        output = tmp_path / "link.png"
        output.symlink_to(photo)
    elif kind == "hard link":
        output = tmp_path / "hard.png"
        os.link(photo, output)
    elif kind == "linked folder":
        (tmp_path / "also").symlink_to(photo.parent)
        output = tmp_path / "also" / "photo.png"
    elif kind == "style":
        output = Path(style)
    elif kind == "mask":
        output = tmp_path / "mask.png"
        others = {"masks": [picture(output)], "together": True}
    with pytest.raises(StylezooError, match=r"would replace the input .*\.png: give --output another name"):
        planned(str(photo), style, output, **others)
    assert photo.read_bytes() == before


def test_an_earlier_output_that_is_a_content_is_not_replaced(style: str, tmp_path: Path) -> None:
    for name in ("a.png", "a_stylized_waves.png"):
        picture(tmp_path / "in" / name)
    contents = [str(tmp_path / "in" / "*.png")]
    with pytest.raises(StylezooError, match=r"a_stylized_waves\.png would replace the input"):
        planned(contents, style, tmp_path / "in")


def test_an_output_folder_is_no_content(style: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("a.png", "b/c.png", "out/a_stylized_waves.png", "outside/d.png"):
        picture(photos / name)
    (tmp_path / "link").symlink_to(photos)
    expected = ["a_stylized_waves.png", "c_stylized_waves.png", "d_stylized_waves.png"]
    for folder in (str(photos), str(tmp_path / "link"), str(photos / "**" / "*.png")):
        assert names(planned(folder, style, photos / "out")) == expected
    assert len(planned(str(photos / "out" / "a_stylized_waves.png"), style, photos / "out").jobs) == 1  # named itself
    with pytest.raises(StylezooError, match="both a folder of images and the output folder.*--output .*stylized"):
        planned(str(photos), style, photos)
    with pytest.raises(StylezooError, match="both a folder of images and the output folder"):
        planned(str(photos), style, tmp_path / "link")


@pytest.mark.parametrize("name", ["o.psd", "o.heic", "o.HEIC", "o.svg", "o.tga", "o.pgn", "o.jpge", "o.xyz"])
def test_a_name_like_an_image_is_no_folder(name: str, style: str, tmp_path: Path) -> None:
    photo = picture(tmp_path / "a.png")
    with pytest.raises(
        StylezooError, match=r"Cannot write .*an image file ends in one of .*\.png.*a folder has no such"
    ):
        planned(photo, style, tmp_path / name)
    assert not (tmp_path / name).exists()
    (tmp_path / name).mkdir()
    assert len(planned(photo, style, tmp_path / name).jobs) == 1  # it is a folder
    assert len(planned(photo, style, tmp_path / "results.v2").jobs) == 1


def test_places_that_cannot_be_written_are_told_first(style: str, tmp_path: Path) -> None:
    photo = picture(tmp_path / "a.png")
    for output in (tmp_path / "a.png" / "out.png", tmp_path / "a.png" / "folder", Path("/proc/stylezoo/out")):
        with pytest.raises(StylezooError, match="Cannot write to the folder"):
            planned(photo, style, output)
    with pytest.raises(StylezooError, match="has more than 255 bytes: shorten it"):
        planned(photo, style, tmp_path / f"{'x' * 252}.png")
    check_folder(tmp_path / "new" / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "styles"]  # checks leave nothing


def test_long_names_are_shortened(style: str, tmp_path: Path) -> None:
    contents = [picture(tmp_path / "in" / f"{'ü' * 120}{end}.png") for end in "ab"]
    plan = planned(contents, style, tmp_path / "out")
    assert len({job.target for job in plan.jobs}) == 2
    for job in plan.jobs:
        preview = free_name(job.target, "_preview")
        assert len(os.fsencode(preview.name)) <= 255 and job.target.name.startswith("ü" * 100)


def test_every_broken_file_is_refused_once_and_the_rest_goes_on(style: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    picture(folder / "good.png")
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "empty.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "style.png").write_bytes(b"")
    plan = planned(
        [str(folder), str(tmp_path / "pipe.png"), "gone.png"], [style, str(tmp_path / "style.png")], tmp_path / "out"
    )
    assert names(plan) == ["good_stylized_waves.png"] and plan.failed == 9 and plan.total == 10
    for name, reason in (
        ("in/broken.jpg", "is not an image"),
        ("in/empty.png", "is empty"),
        ("pipe.png", "is not a regular file"),
        ("style.png", "style "),
    ):
        assert reason in plan.refused[str(tmp_path / name)]
    assert "gone.png does not exist" in plan.refused["gone.png"] and len(plan.refused) == 5


def test_names_that_differ_in_case_only_get_different_files(style: str, tmp_path: Path) -> None:
    contents = [picture(tmp_path / folder / name) for folder, name in (("a", "x.png"), ("b", "X.png"), ("c", "x.png"))]
    targets = {name.casefold() for name in names(planned(contents, style, tmp_path / "out"))}
    assert len(targets) == 3
    assert targets == {name.casefold() for name in names(planned(contents[::-1], style, tmp_path / "out"))}


def test_pairs(style: str, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "lists" / name)
    other = picture(tmp_path / "styles" / "muse.png")
    pairs = tmp_path / "lists" / "pairs.csv"
    pairs.write_text(f"content,style,note\na.png,{style},x\n{tmp_path}/lists/b.png,{other},\n", encoding="utf-8-sig")
    request = Request([], [], tmp_path / "out", pairs=str(pairs))
    plan = make_plan(request)
    assert names(plan) == ["a_stylized_waves.png", "b_stylized_muse.png"]
    write_manifest(request, plan.jobs, 0.5)
    rows = read_manifest(tmp_path / "out" / MANIFEST)
    assert [row["output"] for row in rows] == names(plan) and {row["alpha"] for row in rows} == {"0.5"}
    assert [row["style"] for row in rows] == [style, other]
    for text, message in (
        ("photo,painting\na,b\n", "is not a list of pairs: its first line has to name the columns content, style"),
        ("content,style\n", "lists no pairs"),
        ("content,style\n,b.png\n", "Line 2 of .* names no content"),
    ):
        pairs.write_text(text)
        with pytest.raises(StylezooError, match=message):
            make_plan(request)
    with pytest.raises(StylezooError, match=r"nowhere\.csv does not exist"):
        make_plan(Request([], [], tmp_path / "out", pairs="nowhere.csv"))


def test_trained_styles_of_pairs_are_no_files(tmp_path: Path) -> None:
    """A file of a style's name beside the list is another thing."""
    picture(tmp_path / "lists" / "a.png")
    (tmp_path / "lists" / "waves").touch()
    pairs = tmp_path / "lists" / "pairs.csv"
    pairs.write_text("content,style\na.png,waves\n")
    assert [styles for _, _, styles in read_pairs(str(pairs), are_files=False)] == [("waves",)]
    assert [styles for _, _, styles in read_pairs(str(pairs), are_files=True)] == [(str(tmp_path / "lists" / "waves"),)]


def test_random_styles_depend_on_seed_and_content_only(tmp_path: Path) -> None:
    for index in range(6):
        picture(tmp_path / "in" / f"{index}.png", 4, 4)
        picture(tmp_path / "styles" / f"{index}.png", 4, 4)

    def drawn(seed: int, count: int = 2, content: str = "*") -> dict[str, list[str]]:
        request = Request([str(tmp_path / "in" / f"{content}.png")], [str(tmp_path / "styles")], tmp_path / "out")
        request = Request(request.content, request.style, request.output, random_styles=count, seed=seed)
        chosen: dict[str, list[str]] = {}
        for job in make_plan(request).jobs:
            chosen.setdefault(job.content.name, []).append(Path(job.styles[0]).name)
        return chosen

    first = drawn(0)
    assert first == drawn(0) and all(len(set(styles)) == 2 for styles in first.values())
    assert drawn(0, content="[03]") == {name: first[name] for name in ("0.png", "3.png")}
    assert drawn(1) != first
    with pytest.raises(StylezooError, match="--random_styles 7 needs as many styles, but --style names 6"):
        drawn(0, 7)


def test_a_manifest_keeps_what_it_lists_and_replaces_nothing_else(tmp_path: Path) -> None:
    request = Request(["a.png"], [], tmp_path, random_styles=1, seed=3)
    write_manifest(request, [Job(Path("a.png"), ("s.png",), tmp_path / "a_s.png")], 1.0)
    write_manifest(request, [Job(Path("b.png"), ("s.png",), tmp_path / "b_s.png")], 1.0)
    assert [row["content"] for row in read_manifest(tmp_path / MANIFEST)] == ["a.png", "b.png"]
    assert {row["seed"] for row in read_manifest(tmp_path / MANIFEST)} == {"3"}
    write_manifest(Request(["c.png"], [], tmp_path), [Job(Path("c.png"), ("s.png",), tmp_path / "c_s.png")], 1.0)
    assert [row["seed"] for row in read_manifest(tmp_path / MANIFEST)] == ["3", "3", ""]  # where nothing was drawn
    (tmp_path / MANIFEST).write_text("somebody's,numbers\n1,2\n")
    with pytest.raises(StylezooError, match="is not a list that this command wrote"):
        write_manifest(request, [], 1.0)
    assert (tmp_path / MANIFEST).read_text() == "somebody's,numbers\n1,2\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"content": []}, "There is nothing to stylize"),
        ({"pairs": "x.csv"}, "--pairs names contents and styles"),
        ({"random_styles": 0}, "random_styles is the number of styles drawn for each content, 1 or more, not 0"),
        ({"random_styles": 1, "seed": -1}, "seed is a whole number from 0 up, not -1"),
        ({"random_styles": 1, "together": True}, "--style_weights and --masks put all styles into each image"),
        ({"random_styles": 1, "output": Path("o.png")}, "write into a folder: o.png is an image file"),
    ],
)
def test_requests_that_exclude_each_other(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(StylezooError, match=message):
        Request(**{"content": ["a.png"], "style": ["s.png"], "output": Path("out"), **arguments})  # type: ignore[arg-type]


def test_existing_outputs_are_skipped_if_they_are_whole(style: str, tmp_path: Path) -> None:
    contents = [picture(tmp_path / "in" / f"{name}.png") for name in "abc"]
    picture(tmp_path / "out" / "a_stylized_waves.png")
    (tmp_path / "out" / "b_stylized_waves.png").write_bytes(b"")
    plan = planned(contents, style, tmp_path / "out", skip_existing=True)
    assert names(plan) == ["b_stylized_waves.png", "c_stylized_waves.png"] and len(plan.existing) == 1
    assert len(planned(contents, style, tmp_path / "out").jobs) == 3


def test_a_process_that_has_ended_is_told_and_changes_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Meeting):
        def sums(self, *numbers: int) -> list[int] | None:
            return None

    plan = Plan(jobs=[Job(Path("a.png"), (), Path("b.png"))], shard=Shard(1, 2))
    assert plan.finish(Path("out"), done=1, meeting=Broken(Shard())) == 1
    said = capsys.readouterr()
    assert said.out == "process 1 of 2: 1 of 1 images stylized, 0 failed: out\n"
    assert said.err == "stylezoo: process 1 of 2: another process has ended before its share was done\n"


def test_a_preview_takes_no_name_of_another_file(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    assert free_name(target, "_preview", []).name == "a_preview.png"
    picture(tmp_path / "a_preview.png")
    assert free_name(target, "_preview", [tmp_path / "a_preview2.png"]).name == "a_preview3.png"


def test_a_folder_may_have_the_suffix_of_a_version(style: str, tmp_path: Path) -> None:
    (tmp_path / "made.old").mkdir()
    for name in ("run.2", "run.v2", "made.old", "results.collection"):
        planned(style, style, tmp_path / name)
