"""Folder: framing, splits, the order of samples, broken files."""

import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from stylezoo.data.folder import Folder
from stylezoo.data.stream import DEFAULTS, Files, Framing, ImageStream, ResumableSampler, Samples
from stylezoo.download import DataError
from stylezoo.errors import StylezooError
from stylezoo.images import to_tensor


def write_images(
    folder: Path, count: int, size: tuple[int, int] = (40, 30), start: int = 0, name: str = "{:03}.png"
) -> None:
    """Images of noise; number i is the same in every folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        noise = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name.format(i))


def framing(**values: object) -> Framing:
    return Framing(**{"size": 24, "crop": 16, **values}).inherit(DEFAULTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (33, 33), (10, 9), (301, 57)])
@pytest.mark.parametrize(("side", "crop"), [(24, 24), (24, 16), (25, 16), (64, 31)])
def test_centre_crop_equals_torchvision(size: tuple[int, int], side: int, crop: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for resize, target in (("shorter", side), ("squash", (side, side))):
        mine = framing(size=side, crop=crop, resize=resize)(image, None)
        theirs = v2.CenterCrop(crop)(v2.Resize(target, interpolation=v2.InterpolationMode.BILINEAR)(image))
        difference = np.abs(np.asarray(mine, int) - np.asarray(theirs, int))
        # both round to 8 bits between the passes, not always at the same place: at most one gray level
        assert difference.max() <= 1 and difference.mean() < 0.3


def test_random_crop_is_a_window_of_the_resized_image_and_reaches_all_corners() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    whole = to_tensor(v2.Resize(24)(image))
    windows = whole.unfold(1, 16, 1).unfold(2, 16, 1)  # (3, tops, lefts, 16, 16)
    places = set()
    for i in range(300):
        crop = to_tensor(framing()(image, np.random.default_rng(i)))
        distance = (windows - crop[:, None, None]).abs().amax((0, 3, 4))
        assert distance.min() <= 1.01 / 255
        places.add(int(distance.argmin()))
    tops, lefts = windows.shape[1:3]
    assert {0, lefts - 1, (tops - 1) * lefts, tops * lefts - 1} <= places


def test_flip_mirrors_about_half_and_position_center_does_not_move() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    center = np.asarray(framing()(image, None))
    flipped = 0
    for i in range(100):
        crop = np.asarray(framing(position="center", flip=True)(image, np.random.default_rng(i)))
        flipped += bool((crop == center[:, ::-1]).all())
        assert (crop == center).all() or (crop == center[:, ::-1]).all()
    assert 30 < flipped < 70


def test_zoom_enlarges_evenly_by_the_logarithm_and_never_shrinks() -> None:
    ramp = Image.fromarray(np.tile(np.arange(240, dtype=np.uint8)[None, :, None], (240, 1, 3)))
    slopes = []
    for seed in range(400):
        crop = np.asarray(framing(zoom=3.0)(ramp, np.random.default_rng(seed))).astype(float)
        slopes.append((crop[8, -2, 0] - crop[8, 1, 0]) / 13)
    factors = 240 / 24 / np.asarray(slopes)  # what a pixel of the crop covers of the image
    assert factors.min() > 0.9 and factors.max() < 3.5
    assert abs(np.median(factors) - 3**0.5) < 0.15
    assert framing(zoom=3.0)(ramp, None) == framing()(ramp, None)  # validation is not augmented


def test_color_jitter_changes_colors_alone_and_within_its_strength() -> None:
    gray = np.random.default_rng(1).integers(90, 160, (24, 24, 1), dtype=np.uint8)
    image = Image.fromarray(gray + np.array([12, 0, 6], dtype=np.uint8))
    plain = np.asarray(framing(position="center")(image, np.random.default_rng(0))).astype(float)
    means, jitter = [], framing(position="center", color_jitter=0.4)
    for seed in range(100):
        crop = np.asarray(jitter(image, np.random.default_rng(seed))).astype(float)
        assert (
            np.corrcoef(crop.mean(2).ravel(), plain.mean(2).ravel())[0, 1] > 0.9
        )  # the same pixels at the same places
        means.append(crop.mean() / plain.mean())
    assert 0.55 < min(means) < 0.8 and 1.2 < max(means) < 1.45
    assert (
        np.asarray(jitter(image, np.random.default_rng(5))) == np.asarray(jitter(image, np.random.default_rng(5)))
    ).all()


@pytest.mark.parametrize("values", [{"zoom": 0.5}, {"zoom": 9.0}, {"color_jitter": -0.1}, {"color_jitter": 2.0}])
def test_augmentation_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(StylezooError, match=r"zoom is a factor in \[1, 4\]"):
        framing(**values).check()


def test_tiny_and_extreme_images() -> None:
    for size in ((1, 1), (1, 50), (3000, 2)):
        assert framing()(Image.new("RGB", size, "red"), None).getpixel((8, 8)) == (255, 0, 0)


def test_crop_larger_than_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crop 300 is larger than size 256"):
        Folder(str(tmp_path), size=256, crop=300)
    with pytest.raises(ValueError, match="resize is 'shorter' or 'squash'"):
        framing(resize="wide").check()


def test_splits_by_subfolder(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 5)
    write_images(tmp_path / "validation", 2, start=5)
    write_images(tmp_path / "test", 3, start=7)
    folder = Folder(str(tmp_path))
    assert [len(folder.files(split)) for split in ("train", "val", "test")] == [5, 2, 3]
    assert folder.files("val")[0] == tmp_path / "validation" / "005.png"


def test_splits_by_hash_are_disjoint_complete_and_do_not_move(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / name / "sub", 50, (4, 4), name="é{:03}.png")
    folders = [Folder(str(tmp_path / name), holdout=0.1) for name in ("a", "b")]
    parts = [{split: folder.files(split) for split in ("train", "val", "test")} for folder in folders]
    names = [{split: [path.name for path in paths] for split, paths in part.items()} for part in parts]
    assert names[0] == names[1]
    assert [len(names[0][split]) for split in ("train", "val", "test")] == [40, 5, 5]
    assert len({name for part in names[0].values() for name in part}) == 50
    assert all(part == sorted(part) for part in names[0].values())


@pytest.mark.parametrize(("count", "sizes"), [(1, [1, 1, 1]), (2, [2, 2, 2]), (3, [1, 1, 1]), (10, [8, 1, 1])])
def test_few_images(tmp_path: Path, count: int, sizes: list[int]) -> None:
    write_images(tmp_path, count)
    folder = Folder(str(tmp_path))
    assert [len(folder.files(split)) for split in ("train", "val", "test")] == sizes


def test_missing_folder_is_one_sentence_with_two_ways_on(tmp_path: Path) -> None:
    for root in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match=r"No images at .*: point --data.root .*, or start with the quickstart"):
            Folder(str(root)).check()


def stub(total: int, current: int, last: bool = False) -> SimpleNamespace:
    counts = SimpleNamespace(processed=current, ready=current, completed=current)
    progress = SimpleNamespace(total=SimpleNamespace(processed=total), current=counts, is_last_batch=last)
    return SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)))


def order(trainer: object, length: int = 12, rank: int = 0, world: int = 1, batch_size: int = 4) -> list[int]:
    return list(ResumableSampler(range(100), length, rank, world, batch_size, trainer))  # type: ignore[arg-type]


def test_order_goes_on_where_the_trainer_stands() -> None:
    assert order(None) == list(range(12))
    assert order(stub(2, 2)) == [8, 9, 10, 11]
    assert order(stub(3, 3, last=True)) == list(range(12, 24))
    assert order(stub(4, 1)) == list(range(16, 24))
    # limit_train_batches: 2 of 3 batches per epoch were used
    assert order(stub(2, 2, last=True)) == list(range(8, 20))


@pytest.mark.parametrize("total", [0, 1, 5])
def test_ranks_interleave_to_the_batch_of_one_process(total: int) -> None:
    whole = order(stub(total, 0), length=24, batch_size=8)
    ranks = [order(stub(total, 0), length=12, rank=rank, world=2) for rank in range(2)]
    for k in range(3):
        batches = [rank[4 * k : 4 * k + 4] for rank in ranks]
        assert [i for pair in zip(*batches, strict=True) for i in pair] == whole[8 * k : 8 * k + 8]


def test_items_are_pure_functions_of_seed_stream_and_number(tmp_path: Path) -> None:
    write_images(tmp_path, 7)
    files = Files(sorted(tmp_path.iterdir()), "images")
    one, again = (ImageStream(files, framing(flip=True), 3, "content", train=True) for _ in range(2))
    expected = [one[i] for i in range(30)]
    for i in reversed(range(30)):
        assert torch.equal(again[i], expected[i])
    copy = pickle.loads(pickle.dumps(one))
    assert torch.equal(copy[20], expected[20])
    other_seed = ImageStream(files, framing(flip=True), 4, "content", train=True)
    other_stream = ImageStream(files, framing(flip=True), 3, "style", train=True)
    for other in (other_seed, other_stream):
        assert sum(torch.equal(other[i], expected[i]) for i in range(30)) < 3


def test_every_round_shows_every_image_in_another_order(tmp_path: Path) -> None:
    for i in range(9):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / f"{i}.png")
    stream = ImageStream(Files(sorted(tmp_path.iterdir()), "images"), framing(), 0, "content", train=True)
    rounds = [[round(stream[9 * e + j][0, 0, 0].item() * 255) for j in range(9)] for e in range(4)]
    assert all(sorted(r) == list(range(9)) for r in rounds)
    assert len({tuple(r) for r in rounds}) == 4


def test_loaders_and_their_lengths(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 11)
    write_images(tmp_path / "val", 5)
    write_images(tmp_path / "test", 6)
    folder = Folder(str(tmp_path), batch_size=4, size=24, crop=16, num_workers=0, val_samples=3)
    folder.setup("fit")
    batches = list(folder.train_dataloader())
    assert len(batches) == len(folder.train_dataloader()) == 2
    assert all(list(batch) == ["content"] for batch in batches)
    content = batches[0]["content"]
    assert content.shape == (4, 3, 16, 16) and content.dtype == torch.float32
    assert 0 <= content.min() < 0.2 and 0.8 < content.max() <= 1
    assert [len(batch["content"]) for batch in folder.val_dataloader()] == [3]
    test = torch.cat([batch["content"] for batch in folder.test_dataloader()])
    expected = [to_tensor(framing()(Image.open(path), None)) for path in folder.files("test")]
    assert torch.equal(test, torch.stack(expected))


def test_fixed_loaders_give_every_process_equally_many(tmp_path: Path) -> None:
    write_images(tmp_path / "test", 5)
    write_images(tmp_path / "train", 1)
    folder = Folder(str(tmp_path), batch_size=2, num_workers=0)
    seen = []
    for rank in range(2):
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        folder.trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=strategy)  # type: ignore[assignment]
        seen.append([i for batch in folder.test_dataloader().batch_sampler for i in batch])
    assert seen == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_files_are_replaced_counted_and_named_once(tmp_path: Path, num_workers: int) -> None:
    for i in range(12):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / f"{i:02}.png")
    for i in (3, 7, 8):
        (tmp_path / f"{i:02}.png").write_bytes(b"broken")

    def run() -> tuple[torch.Tensor, list[str]]:
        folder = Folder(str(tmp_path), batch_size=4, size=16, crop=16, num_workers=num_workers, holdout=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            folder.setup("fit")
            batches = [batch["content"][:, 0, 0, 0] for _ in range(3) for batch in folder.train_dataloader()]
            folder.teardown("fit")
        return torch.cat(batches).mul(255).round(), [str(w.message) for w in caught if w.category is UserWarning]

    values, messages = run()
    assert not set(values.int().tolist()) & {3, 7, 8}
    first = [message for message in messages if "The next one takes its place" in message]
    assert len(first) == 1 and "is not an image" in first[0] and ".png" in first[0]
    summary = [message for message in messages if "could not be read" in message]
    assert len(summary) == 1 and "3 of 12 images" in summary[0] and "03.png" in summary[0]
    assert torch.equal(values, run()[0])
    stream = ImageStream(Files(sorted(tmp_path.iterdir()), "images"), framing(), 0, "content", train=True)
    alone = [round(stream[i][0, 0, 0].item() * 255) for i in range(12)]  # also independent of what was met before
    assert alone == values[:12].int().tolist()


def test_a_folder_without_a_readable_image_fails_at_setup(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"None of the \d images in .* can be read; the first one: .* is empty"):
        Folder(str(tmp_path)).setup("fit")


def test_samples_join_streams(tmp_path: Path) -> None:
    write_images(tmp_path, 4)
    files = Files(sorted(tmp_path.iterdir()), "images")
    streams = {name: ImageStream(files, framing(), 0, name, train=True) for name in ("content", "style")}
    sample = Samples(streams)[5]
    assert torch.equal(sample["style"], streams["style"][5]) and list(sample) == ["content", "style"]
