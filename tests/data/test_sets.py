"""The layouts of the data sets, as their publishers ship them, and the sentences when something is missing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from stylezoo.data import COCO, DataError, Flickr, Folder, PainterByNumbers, WikiArt

QUICKSTART = "python -m stylezoo fit --config experiments/sanet.yaml --config experiments/quickstart.yaml"


def write_images(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(path)


def names(module: Folder, split: str) -> list[str]:
    return [path.relative_to(module.root).as_posix() for path in module.files(split)]  # type: ignore[arg-type]


@pytest.mark.parametrize("inner", ["", "images"])
@pytest.mark.parametrize("year", [2014, 2017])
def test_coco(tmp_path: Path, inner: str, year: int) -> None:
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        write_images(*(tmp_path / inner / f"{split}{year}" / f"COCO_{i:012}.jpg" for i in range(count)))
    module = COCO(str(tmp_path), year=year)  # type: ignore[arg-type]
    assert [len(module.files(split)) for split in ("train", "val", "test")] == [4, 2, 1]
    assert names(module, "train")[0] == (f"{inner}/" if inner else "") + f"train{year}/COCO_000000000000.jpg"
    module.check()


def test_coco_without_validation_folder_holds_out(tmp_path: Path) -> None:
    write_images(*(tmp_path / "train2014" / f"{i}.jpg" for i in range(10)))
    module = COCO(str(tmp_path))
    assert [len(module.files(split)) for split in ("train", "val", "test")] == [8, 1, 1]
    assert len({name for split in ("train", "val", "test") for name in names(module, split)}) == 10


def test_coco_with_validation_only_can_validate_but_not_train(tmp_path: Path) -> None:
    write_images(tmp_path / "val2017" / "1.jpg")
    module = COCO(str(tmp_path), year=2017)
    module.setup("validate")
    with pytest.raises(
        DataError, match="No COCO 2017 training images at .*train2017: add --data.download true .*18 GB"
    ):
        module.setup("fit")


WIKIART = ["Cubism/juan-gris_guitar-1913.jpg", "Cubism/a_b.jpg", "Ukiyo_e/hiroshige_él-mar.jpg", "Ukiyo_e/c, d.jpg"]


@pytest.mark.parametrize("inner", ["", "wikiart"])
@pytest.mark.parametrize("lists", [".", "wikiart_csv", "../wikiart_csv"])
def test_wikiart_with_lists(tmp_path: Path, inner: str, lists: str) -> None:
    root = tmp_path / "data"
    write_images(*(root / inner / name for name in WIKIART))
    (root / lists).mkdir(exist_ok=True)
    (root / lists / "style_train.csv").write_text(
        f'{WIKIART[0]},7\n{WIKIART[2]},26\nCubism/gone.jpg,7\n"{WIKIART[3]}",26\n', encoding="utf-8"
    )
    (root / lists / "style_val.csv").write_text(f"{WIKIART[1]},7\n")
    module = WikiArt(str(root))
    with pytest.warns(UserWarning, match="1 of 5 images listed for WikiArt are not in"):
        module.files("train")
    prefix = f"{inner}/" if inner else ""
    assert names(module, "train") == [prefix + WIKIART[i] for i in (0, 2, 3)]
    assert names(module, "val") == names(module, "test") == [prefix + WIKIART[1]]
    everything = WikiArt(str(root), csv=None)
    assert sum(len(everything.files(split)) for split in ("train", "val", "test")) == 4
    genre = WikiArt(str(root), csv="genre")  # no such list: as without
    assert sum(len(genre.files(split)) for split in ("train", "val", "test")) == 4


def test_wikiart_styles(tmp_path: Path) -> None:
    write_images(*(tmp_path / name for name in WIKIART))
    module = WikiArt(str(tmp_path), styles=["Ukiyo_e"])
    assert set(names(module, "train")) == set(WIKIART[2:])
    with pytest.raises(DataError, match="no style folder Rococo: --data.styles can name Cubism, Ukiyo_e"):
        WikiArt(str(tmp_path), styles=["Rococo"]).check()


def test_wikiart_flat(tmp_path: Path) -> None:
    write_images(*(tmp_path / f"{i}.jpg" for i in range(5)))
    assert len(WikiArt(str(tmp_path)).files("train")) == 3


def test_wikiart_with_the_wrong_lists(tmp_path: Path) -> None:
    write_images(*(tmp_path / name for name in WIKIART))
    (tmp_path / "style_train.csv").write_text("Rococo/x.jpg,1\n")
    with pytest.raises(DataError, match="None of the 1 images .*: set --data.csv null"):
        WikiArt(str(tmp_path)).check()


@pytest.mark.parametrize("folder", ["Flicker8k_Dataset", "Images"])
@pytest.mark.parametrize("lists", ["", "Flickr8k_text"])
def test_flickr8k(tmp_path: Path, folder: str, lists: str) -> None:
    write_images(*(tmp_path / folder / f"{i}.jpg" for i in range(7)))
    (tmp_path / lists).mkdir(exist_ok=True)
    for name, numbers in (("train", (0, 3, 1)), ("dev", (4,)), ("test", (5, 6))):
        text = "".join(f"{i}.jpg\n" for i in numbers)
        (tmp_path / lists / f"Flickr_8k.{name}Images.txt").write_text(text)
    module = Flickr(str(tmp_path), name="8k")
    assert [len(module.files(split)) for split in ("train", "val", "test")] == [3, 1, 2]
    assert names(module, "val") == [f"{folder}/4.jpg"]


@pytest.mark.parametrize("folder", ["flickr30k_images", "flickr30k_images/flickr30k_images", "images"])
def test_flickr30k(tmp_path: Path, folder: str) -> None:
    write_images(*(tmp_path / folder / f"{i}.jpg" for i in range(7)))
    rows = ["image_name| comment_number| comment"]
    rows += [f'{i}.jpg| {j}| A "dog, runs .' for i in (0, 1, 2, 3, 9) for j in range(5)]
    (tmp_path / folder / "results.csv").write_text("\n".join(rows))
    module = Flickr(str(tmp_path))
    with pytest.warns(UserWarning, match="1 of 5 images listed for Flickr30k"):
        module.check()
    found = sorted(name for split in ("train", "val", "test") for name in names(module, split))
    assert found == [f"{folder}/{i}.jpg" for i in range(4)]
    (tmp_path / folder / "results.csv").unlink()
    assert len(Flickr(str(tmp_path)).files("train")) == 5


def test_flickr_with_the_wrong_lists(tmp_path: Path) -> None:
    write_images(tmp_path / "Images" / "1.jpg")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("2.jpg\n3.jpg\n")
    with pytest.raises(DataError, match="None of the 2 images listed for Flickr8k is in .*Images: put them there"):
        Flickr(str(tmp_path), name="8k").check()


INFO = """artist,date,genre,pixelsx,pixelsy,size_bytes,source,style,title,artist_group,in_train,new_filename
b,1912,portrait,4,4,9.0,wikiart,Cubism,"One, two",train_only,True,1.jpg
b,1912,landscape,4,4,9.0,wikiart,Cubism,Two,train_only,True,2.jpg
c,1830,landscape,4,4,9.0,wikiart,Ukiyo-e,Three,train_and_test,True,3.jpg
c,1830,portrait,4,4,9.0,wikiart,Ukiyo-e,Four,test_only,False,4.jpg
c,1830,portrait,4,4,9.0,wikiart,Ukiyo-e,Gone,test_only,False,5.jpg
"""


@pytest.mark.parametrize("parts", [("train", "train"), ("train_1", "train_9")])
@pytest.mark.parametrize("info", [True, False])
def test_painter_by_numbers(tmp_path: Path, parts: tuple[str, str], info: bool) -> None:
    write_images(tmp_path / parts[0] / "1.jpg", tmp_path / parts[1] / "2.jpg", tmp_path / parts[1] / "3.jpg")
    write_images(tmp_path / "test" / "4.jpg")
    if info:
        (tmp_path / "all_data_info.csv").write_text(INFO)
    module = PainterByNumbers(str(tmp_path))
    assert names(module, "test") == ["test/4.jpg"]
    assert [len(module.files(split)) for split in ("train", "val")] == [2, 1]
    cubist = PainterByNumbers(str(tmp_path), styles=["Cubism"], genres=["landscape"])
    if info:
        assert names(cubist, "train") == [f"{parts[1]}/2.jpg"]
        with pytest.raises(DataError, match=r"has style \['Rococo'\] and genre any"):
            PainterByNumbers(str(tmp_path), styles=["Rococo"]).check()
    else:
        with pytest.raises(DataError, match="all_data_info.csv is missing"):
            cubist.check()


def test_painter_by_numbers_replacements(tmp_path: Path) -> None:
    write_images(
        *(tmp_path / "train" / f"{i}.jpg" for i in (1, 2)), tmp_path / "replacements_for_corrupted_files/train/2.jpg"
    )
    module = PainterByNumbers(str(tmp_path), holdout=0)
    assert names(module, "train") == ["train/1.jpg", "replacements_for_corrupted_files/train/2.jpg"]


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (COCO, ["No COCO 2014 training images at", "--data.download true", "13 GB"]),
        (WikiArt, ["No WikiArt images at", "--data.download true", "25.4 GB"]),
        (lambda root: Flickr(root, name="8k"), ["No Flickr8k images at", "/Images", "--data.download true"]),
        (Flickr, ["No Flickr30k images at", "shannon.cs.illinois.edu", "hsankesara/flickr-image-dataset"]),
        (lambda root: Flickr(root, download=True), ["Flickr30k cannot be downloaded", "flickr30k_images"]),
        (PainterByNumbers, ["No Painter by Numbers images at", "kaggle.com/c/painter-by-numbers", "/train"]),
        (lambda root: PainterByNumbers(root, download=True), ["kaggle.com/c/painter-by-numbers"]),
    ],
)
def test_missing_data_is_one_sentence_with_ways_on(
    tmp_path: Path, build: Callable[[str], Folder], parts: list[str]
) -> None:
    module = build(str(tmp_path / "data"))
    with pytest.raises(DataError) as caught:
        module.check()
        module.prepare_data()
    message = str(caught.value)
    assert all(part in message for part in [*parts, QUICKSTART, str(tmp_path)])
    assert "\n" not in message and isinstance(caught.value, FileNotFoundError)


def test_labels(tmp_path: Path) -> None:
    assert COCO(str(tmp_path), year=2017).label("val") == "COCO 2017 validation images"
    for module in (WikiArt(), Flickr(), PainterByNumbers()):
        assert module.label("train").endswith("images")
