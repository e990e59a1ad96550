"""The command line as users meet it: one help, files in and out, one sentence for every mistake."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, shared, thin_model
from torch.nn import functional as F

import stylezoo
from stylezoo import catalog, registry, studies, weights
from stylezoo.cli import main, parse_numbers
from stylezoo.commands import COMMANDS, OPTION_NAMES
from stylezoo.images import read_image, to_tensor, write_image


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    stylezoo.save_model(thin_model("adain"), path)
    return path


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line that fails says on standard error."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code not in (0, None)
    return capsys.readouterr().err


def test_one_help_shows_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict", *COMMANDS):
        assert f"\n  {command} " in shown


def test_what_needs_no_model_imports_no_torch() -> None:
    """The package, its help, its list and a usage error, in one fresh process."""
    program = """
import sys
import stylezoo
from stylezoo.cli import main

wrong = ["stylise"], ["stylize", "--stlye", "a"], ["stylize"], ["reproduce", "alpha_swep"], ["list", "--kind", "photo"]
unknown = ["import", "--system", "adian", "--files", "a", "--output", "a.safetensors"]
for args in (["--help"], ["--version"], ["list"], ["reproduce", "--list"], ["stylize", "--help"], [], *wrong, unknown):
    try:
        main(args)
    except SystemExit as stop:
        print(stop.code, file=sys.stderr)
heavy = {"torch", "lightning", "torchvision", "numpy"} & sys.modules.keys()
assert not heavy, heavy
assert "adain" in stylezoo.list_models() and stylezoo.models and "stylize" in dir(stylezoo)
"""
    kinds = "arbitrary, multi, single, optimization"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines() == [
        *("0", "0", "0"),
        "stylezoo: Say what to do, such as python -m stylezoo list. (See python -m stylezoo --help.)",
        "2",
        "stylezoo: There is no command 'stylise': did you mean 'stylize'? (See python -m stylezoo --help.)",
        "2",
        "stylezoo: There is no option --stlye: did you mean --style? (See python -m stylezoo stylize --help.)",
        "2",
        "stylezoo: --model and --output must be given. (See python -m stylezoo stylize --help.)",
        "2",
        "stylezoo: There is nothing to reproduce called 'alpha_swep': did you mean 'alpha_sweep'?",
        "1",
        f"stylezoo: --kind must be {kinds} or null, not 'photo'. (See python -m stylezoo list --help.)",
        "2",
        "stylezoo: There is no system 'adian': did you mean 'adain'?",
        "1",
    ]


def test_the_catalog_says_what_the_classes_and_studies_say() -> None:
    for name, system in catalog.systems().items():
        assert system == registry.about(registry.get(name))
    assert list(catalog.systems()) == list(registry.systems())
    known = {name: (study.title, study.source) for name, study in studies.studies().items()}
    assert {name: (study.title, study.source) for name, study in catalog.studies().items()} == known


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    for parameter in inspect.signature(COMMANDS[command]).parameters:
        name = OPTION_NAMES.get(parameter, parameter)
        option = re.search(rf"\n  (?:--)?{name}\b.*?(?=\n  --|\Z)", shown, re.DOTALL)
        assert option is not None and len(option[0].split("(")[0].split()) > 4, f"--{name} has no help"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    table = capsys.readouterr().out
    assert all(name in table for name in stylezoo.list_models())
    main(["list", "--format", "json", "--kind", "arbitrary"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == set(stylezoo.list_models("arbitrary"))
    assert {"name", "kind", "year", "paper", "reference"} == set(rows[0])


def test_list_pretrained(capsys: pytest.CaptureFixture[str]) -> None:
    stylezoo.save_model(thin_model("adain"), weights.folder() / "adain.thin.safetensors")
    assert "adain.thin" in stylezoo.list_models(pretrained=True)
    main(["list", "--pretrained"])
    shown = capsys.readouterr().out
    assert "adain.thin" in shown and re.search(
        r"gatys.modern +optimization +- +\S*experiments/gatys_modern.yaml", shown
    )
    main(["list", "--pretrained", "--format", "json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    file = weights.folder() / "adain.thin.safetensors"
    assert rows["adain.thin"]["MB"] == pytest.approx(file.stat().st_size / 1e6, abs=0.05)
    assert rows["adain.thin"]["file"] == str(file) and rows["adain.thin"]["first run"] is None
    assert rows["gatys"]["first run"] == "python -m stylezoo download vgg19_caffe"
    main(["list", "--pretrained", "--kind", "single"])
    assert "adain.thin" not in capsys.readouterr().out
    assert stylezoo.load_model("adain.thin").system == "adain"
    (weights.folder() / "adain.thin.safetensors").unlink()


def test_stylize_one_picture(model: Path, pictures: Path, tmp_path: Path) -> None:
    content, style = pictures / "00.png", pictures / "01.png"
    arguments = ["--content", str(content), "--style", str(style), "--alpha", "0.5", "--size", "32"]
    main(["stylize", "--model", str(model), *arguments, "--output", str(tmp_path / "new" / "out.jpg")])
    expected = stylezoo.stylize(content, style, model, alpha=0.5, size=32)
    painted = read_image(tmp_path / "new" / "out.jpg")
    assert painted.size == expected.size
    assert np.abs(np.asarray(painted).astype(float) - np.asarray(expected)).mean() < 4  # JPEG


def test_stylize_folders_and_globs(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every content with every style, folders inside folders kept, images of one size together, equal to singles."""
    for name in ("a/one.png", "a/b/two.png"):
        write_image(to_tensor(read_image(pictures / "02.png")), tmp_path / "in" / name)
    styles = str(pictures / "0[01].png")
    out = tmp_path / "out"
    main(["stylize", "--model", str(model), "--content", str(tmp_path / "in"), "--style", styles, "--output", str(out)])
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert names == [f"a/{n}_stylized_{s}.png" for n in ("b/two", "one") for s in ("00", "01")]
    assert "4 of 4 images stylized, 0 failed" in capsys.readouterr().out
    single = np.asarray(stylezoo.stylize(pictures / "02.png", pictures / "01.png", model)).astype(int)
    assert np.abs(np.asarray(read_image(out / "a" / "one_stylized_01.png")).astype(int) - single).max() <= 1


def test_stylize_blends(model: Path, pictures: Path, tmp_path: Path) -> None:
    content, *styles = (str(pictures / f"0{i}.png") for i in range(3))
    common = ["stylize", "--model", str(model), "--content", content, "--style", *styles]
    main([*common, "--style_weights", "1,3", "--output", str(tmp_path / "blend.png")])
    expected = np.asarray(stylezoo.stylize(content, styles, model, style_weights=[1, 3]))
    assert np.array_equal(np.asarray(read_image(tmp_path / "blend.png")), expected)
    mask = torch.zeros(3, 48, 64)
    mask[..., :32] = 1
    write_image(mask, tmp_path / "mask.png")
    main([*common, "--mask", str(tmp_path / "mask.png"), "--output", str(tmp_path / "regions.png")])
    expected = np.asarray(stylezoo.stylize(content, styles, model, masks=tmp_path / "mask.png"))
    assert np.array_equal(np.asarray(read_image(tmp_path / "regions.png")), expected)


def test_stylize_goes_on_past_bad_files(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    write_image(torch.rand(3, 32, 32), folder / "good.png")
    write_image(torch.rand(3, 8, 8), folder / "tiny.png")
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "style.png").write_bytes(b"")
    arguments = ["stylize", "--model", str(model), "--content", str(folder), str(tmp_path / "gone.png")]
    arguments += ["--style", str(pictures / "00.png"), str(folder / "style.png"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="1"):
        main(arguments)
    shown = capsys.readouterr()
    assert "1 of 10 images stylized, 9 failed" in shown.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good_stylized_00.png"]
    for reason in ("broken.jpg is not an image", "gone.png does not exist", "8 x 8 pixels is too small", "0 bytes"):
        assert reason in shown.err


def test_same_names_do_not_collide(model: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("x.png", "x.jpg"):
        write_image(torch.rand(3, 32, 32), tmp_path / "in" / name)
    common = ["stylize", "--model", str(model), "--style", str(pictures / "00.png"), "--output", str(tmp_path / "out")]
    main([*common, "--content", str(tmp_path / "in")])
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--output": "{tmp}/one.png", "--content": "{pictures}"}, "12 images cannot go into one file"),
        ({"--content": "{tmp}"}, "There is no image in"),
        ({"--content": "{tmp}/*.jpg"}, "There is no image in"),
        ({"--model": "{tmp}/none.ckpt"}, "There is no model file"),
        ({"--model": "{pictures}/00.png"}, "00.png is no model of stylezoo"),
        ({"--style_weights": "a,b"}, "--style_weights takes numbers such as 1,2,1, not 'a,b'"),
        ({"--alpha": "2"}, "alpha is the strength"),
    ],
)
def test_mistakes_are_one_sentence(
    changes: dict[str, str],
    message: str,
    model: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"--model": str(model), "--content": "{pictures}/00.png", "--style": "{pictures}/01.png"}
    options = {**options, "--output": "{tmp}/out", **changes}
    filled = [part.format(tmp=tmp_path, pictures=pictures) for option in options.items() for part in option]
    shown = fails(["stylize", *filled], capsys).strip()
    assert message in shown and "Traceback" not in shown and len(shown.splitlines()) == 1


def test_import_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, decoder = (shared(f"weights/{n}") for n in ("vgg_normalised_to_relu4_1.pth", "adain_decoder_8bit.pth"))
    outputs = []
    for order in ([encoder, decoder], [decoder, encoder], [f"decoder={decoder}", encoder]):
        outputs.append(tmp_path / f"{len(outputs)}.safetensors")
        main(["import", "--system", "adain", "--files", *map(str, order), "--output", str(outputs[-1])])
    assert outputs[0].read_bytes() == outputs[1].read_bytes() == outputs[2].read_bytes()
    assert "7,010,959 parameters" in capsys.readouterr().out  # encoder 3,505,740, decoder 3,505,219
    arguments = ["import", "--system", "adain", "--output", str(tmp_path / "x.safetensors"), "--files"]
    assert "no file for decoder" in fails([*arguments, str(encoder)], capsys)
    assert "hold VGG weights" in fails([*arguments, str(encoder), str(outputs[0])], capsys)
    copy = tmp_path / "copy.pth"
    copy.write_bytes(decoder.read_bytes())
    assert "fit decoder of adain: give one" in fails([*arguments, str(encoder), str(decoder), str(copy)], capsys)
    other = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.ones(2)}, other)
    assert "fits no part of adain" in fails([*arguments, str(encoder), str(other)], capsys)
    assert "does not fit decoder" in fails([*arguments, str(encoder), f"decoder={other}"], capsys)
    assert "no part called painter" in fails([*arguments, str(encoder), str(decoder), f"painter={decoder}"], capsys)
    assert "ends in .safetensors" in fails([*arguments[:4], "x.pth", "--files", str(encoder)], capsys)
    assert not (tmp_path / "x.safetensors").exists()


def test_imported_adain_paints_what_the_reference_paints(tmp_path: Path) -> None:
    """The reference's own forward pass written out, on a real photo and painting: PSNR of at least 45 dB."""
    encoder, decoder = (shared(f"weights/{n}") for n in ("vgg_normalised_to_relu4_1.pth", "adain_decoder_8bit.pth"))
    content, style = (shared(f"images/fullres/{n}") for n in ("photos/cornell.jpg", "paintings/la_muse.jpg"))
    model = tmp_path / "adain.safetensors"
    main(["import", "--system", "adain", "--files", str(encoder), str(decoder), "--output", str(model)])
    out = tmp_path / "out.png"
    files = ["--content", str(content), "--style", str(style), "--output", str(out), "--size", "256"]
    main(["stylize", "--model", str(model), *files, "--style_size", "256"])

    vgg, dec = (torch.load(path, weights_only=True) for path in (encoder, decoder))

    def conv(x: torch.Tensor, state: dict[str, torch.Tensor], key: int) -> torch.Tensor:
        weight = state[f"{key}.weight"]
        x = F.pad(x, (1, 1, 1, 1), mode="reflect") if weight.shape[-1] == 3 else x
        return F.conv2d(x, weight, state[f"{key}.bias"])

    def encode(x: torch.Tensor) -> torch.Tensor:
        x = conv(x, vgg, 0)
        for key in (2, 5, 9, 12, 16, 19, 22, 25, 29):
            if key in (9, 16, 29):
                x = F.max_pool2d(x, 2, ceil_mode=True)
            x = F.relu(conv(x, vgg, key))
        return x

    pictures = [torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)[None] / 255 for path in (content, style)]
    from torchvision.transforms.v2.functional import resize

    c, s = (encode(resize(p, [256], antialias=True)) for p in pictures)

    def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean((2, 3), keepdim=True), (x.var((2, 3), keepdim=True) + 1e-5).sqrt()

    x = (c - moments(c)[0]) / moments(c)[1] * moments(s)[1] + moments(s)[0]
    for key in (1, 5, 8, 11, 14, 18, 21, 25, 28):
        x = conv(x, dec, key)
        x = F.relu(x) if key != 28 else x
        if key in (1, 14, 21):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
    painted = to_tensor(read_image(out))
    reference = x[0, :, : painted.shape[1], : painted.shape[2]].clamp(0, 1)
    psnr = -10 * torch.log10(F.mse_loss(painted, reference))
    assert float(psnr) >= 45


@pytest.mark.slow
def test_fit_without_data_says_the_two_ways_on(tmp_path: Path) -> None:
    """In a fresh process and folder, as a newcomer types it."""
    run = subprocess.run(
        [sys.executable, "-m", "stylezoo", "fit", "--config", str(ROOT / "experiments" / "sanet.yaml")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr
    sentence = run.stderr.strip().splitlines()[-1]
    assert "No COCO 2014 training images at data/coco/train2014" in sentence
    assert "--data.content.download true" in sentence and "quickstart.yaml" in sentence
    assert list(tmp_path.iterdir()) == []


def test_errors_of_other_libraries_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        np.zeros((2, 2)).reshape(3)
        return 0

    monkeypatch.setitem(COMMANDS, "list", broken)
    with pytest.raises(ValueError, match="cannot reshape"):
        main(["list"])


def test_download_names_the_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    assert "choose one of vgg19_normalised" in fails(["download", "nothing"], capsys)
    assert "did you mean 'vgg19_normalised'?" in fails(["download", "vgg19_normalized"], capsys)


def test_parse_numbers() -> None:
    assert parse_numbers(None) is None and parse_numbers("1, 2.5,-1") == [1, 2.5, -1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "adain"], "adain takes any image as style: give at least one (--style)."),
        (["--model", "sanet.slim"], "sanet takes any image as style: give at least one (--style)."),
        (
            ["--model", "johnson.starry_night", "--style", "a.jpg"],
            "johnson stylizes with the one style that it was trained on: leave --style out.",
        ),
    ],
)
def test_a_missing_style_is_told_before_pytorch_is_imported(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "stylezoo.inference.files", None)
    with pytest.raises(SystemExit):
        main(["stylize", *words, "--content", "photo.jpg", "--output", "out.png"])
    assert sentence in capsys.readouterr().err
