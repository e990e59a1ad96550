"""Style transfer as data augmentation: `RandomStylize`, a transform of torchvision's v2.

    from torchvision.transforms import v2
    from stylezoo.transforms import RandomStylize

    augment = v2.Compose([v2.ToImage(), RandomStylize(0.5, alpha=(0.5, 1.0), styles="paintings"), v2.ToDtype(torch.float32, True)])
    image, boxes, label = augment(image, boxes, label)

Networks that learn from photos recognize objects by texture more than by shape; training on stylized images as well makes them
more robust (Geirhos et al. 2019, arXiv:1811.12231; Jackson et al. 2019, arXiv:1809.05375). docs/augmentation.md has a recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2 import functional as transforms

from stylezoo.checkpoints import load_model
from stylezoo.controls import Controls, EngineName, alpha_range
from stylezoo.errors import StylezooError, check_number
from stylezoo.images import ImageError, ImageLike, check_batch, to_image, to_tensor
from stylezoo.images.formats import described
from stylezoo.inference.banks import is_reference, split_reference, style_name
from stylezoo.inference.codes import load_codes
from stylezoo.inference.engines import ENGINES, Engine, create_engine
from stylezoo.inference.plan import expand_style
from stylezoo.inference.stylizer import Stylizer, find_device, listed, load_styles
from stylezoo.inference.tuning import default_engine
from stylezoo.module import StyleCode, StyleModel

PIXELS_AT_ONCE = 2**20
"""Pixels of a batch that go through the network together, so that memory does not grow with the batch."""

MODES = ("L", "LA", "RGB", "RGBA")
"""Modes of PIL images that keep their mode."""


class RandomStylize(Transform):  # type: ignore[misc]  # torchvision has no types
    """Stylizes images with styles that are drawn at random.

    Images, ``tv_tensors.Image``, ``tv_tensors.Video``, plain tensors and PIL images, are stylized by torchvision's rules: boxes,
    masks, key points, labels, and plain tensors beside another image stay as they are. Each image of a batch has a style of its
    own, and so has each video for all of its frames; images that come in one call, such as a stereo pair, share their styles.
    Random numbers are those of ``torch.manual_seed``. An output has size, type, range, device and number of channels of its input:
    uint8, or floats in [0, 1]; gray images stay gray, and an opacity is kept.

    The styles are encoded once, in the constructor. A copy for a worker of a data loader takes the codes along; a model that is
    given by name is loaded again by each worker when it is needed, and one that is given as an object is copied.

    Args:
        p: Probability with which an image is stylized.
        alpha: Strength of the style, 0 to 1, or the smallest and the largest one, of which one is drawn for each call.
        styles: Style images (whatever `stylezoo.images.load_image` takes), files, folders, globs, or banks of encoded styles
            (``python -m stylezoo encode-style``). For multi-style systems numbers or names of their styles, None for all of
            them; None for single-style ones.
        model: A model, a file, or the name of weights (`stylezoo.load_model`).
        size: Short side in pixels to which images are resized while they are stylized; None keeps their size. Larger sizes give
            finer strokes.
        style_size: Short side in pixels to which style images are resized; None keeps theirs. Systems with attention store
            codes whose size grows with that of the style.
        engine: What runs the model (docs/engines.md): auto, eager, winograd, channels_last, bfloat16 or cuda.
        device: Where the model computes: auto, cpu, cuda, mps ...; None leaves it where it is. Workers of data loaders compute on
            the CPU; on a GPU, stylize batches in the training loop.

    Raises:
        ImageError: If a style image cannot be read.
        MissingFileError: If a model or a file of codes is not there.
        StylezooError: If the arguments do not fit each other or the model.

    Shape: ``(..., C, H, W)`` with C 1 or 3, and ``(..., T, C, H, W)`` of videos; H and W from 16 up, unless ``size`` is given.
    """

    def __init__(
        self,
        p: float = 0.5,
        alpha: float | Sequence[float] = 1.0,
        styles: ImageLike | int | Sequence[ImageLike | int] | None = None,
        model: str | Path | StyleModel = "adain",
        *,
        size: int | None = None,
        style_size: int | None = 256,
        engine: EngineName = "auto",
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        self.p = check_number("p", p, "the probability with which an image is stylized, between 0 and 1", 0, 1)
        self.alpha = alpha_range(alpha)
        controls = Controls(size=size, style_size=style_size, engine=engine)
        if engine != "auto" and ENGINES[engine].prepares and engine != "cuda":
            usable = [name for name, kind in ENGINES.items() if not kind.prepares or name == "cuda"]
            raise StylezooError(
                f"The engine {engine} prepares for each number and size of images, which are random here: choose auto,"
                f" {', '.join(usable[:-1])} or {usable[-1]}."
            )
        self.size, self.engine = controls.size, engine
        self.device = None if device is None else str(find_device(device))
        self._given = () if isinstance(model, (str, Path)) else (model,)  # a tuple hides it from torch.nn.Module
        self.model = str(model) if isinstance(model, (str, Path)) else model.tag or model.system
        self._running: Engine | None = None
        network = self.runner.model
        if network.kind == "optimization":
            raise StylezooError(
                f"{network.system} optimizes each image for minutes: choose a feed-forward system, such as adain."
            )
        for end in self.alpha:
            network.check_controls(end, None)
        self._bank = self._encoded(styles, controls.style_size if network.kind == "arbitrary" else None)

    @property
    def bank(self) -> dict[str, StyleCode]:
        """The encoded styles by name, which `stylezoo.inference.save_codes` writes to a file."""
        return dict(self._bank)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy in another process is made from: the codes, and no model that can be loaded by its name."""
        bank = {name: {key: tensor.cpu() for key, tensor in code.items()} for name, code in self._bank.items()}
        return {**self.__dict__, "_running": None, "_bank": bank}

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws which images are stylized, in which styles, and how strongly."""
        count = max(map(_count, flat_inputs), default=0)
        low, high = self.alpha
        return {
            "chosen": torch.rand(count) < self.p,
            "styles": torch.randint(len(self._bank), (count,)),
            "alpha": low + (high - low) * float(torch.rand(())),
        }

    @torch.no_grad()
    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Stylizes an image, a video or a batch; everything else is returned as it is."""
        count = _count(inpt)
        chosen, styles = params["chosen"][:count], params["styles"][:count]
        if not bool(chosen.any()):
            return inpt
        if isinstance(inpt, Image.Image):
            return self._picture(inpt, styles, params["alpha"])
        frames = inpt.shape[-4] if isinstance(inpt, tv_tensors.Video) else 1
        images = inpt.as_subclass(Tensor).reshape(-1, *inpt.shape[-3:])
        output = images.clone()
        for rows in self._batches(chosen.repeat_interleave(frames), styles.repeat_interleave(frames), images.shape):
            numbers = styles[rows // frames].tolist()
            output[rows.to(output.device)] = self._stylized(images[rows.to(images.device)], numbers, params["alpha"])
        return tv_tensors.wrap(output.reshape(inpt.shape), like=inpt)

    def _picture(self, image: Image.Image, styles: Tensor, alpha: float) -> Image.Image:
        """Stylizes a PIL image."""
        if image.mode not in MODES:
            raise ImageError(
                f"RandomStylize takes PIL images of mode {', '.join(MODES)}, not {image.mode}: convert('RGB') first."
            )
        output = to_image(self._stylized(to_tensor(image.convert("RGB"))[None], styles.tolist(), alpha))
        output = output.convert(image.mode)
        if image.mode in ("LA", "RGBA"):
            output.putalpha(image.getchannel("A"))
        return output

    def _batches(self, chosen: Tensor, styles: Tensor, shape: torch.Size) -> Iterator[Tensor]:
        """Yields the numbers of images that are stylized together: their codes have equal sizes."""
        codes, groups = list(self._bank.values()), dict[Any, list[int]]()
        for row in chosen.nonzero().flatten().tolist():
            sizes = tuple((name, tuple(tensor.shape[1:])) for name, tensor in codes[int(styles[row])].items())
            groups.setdefault(sizes, []).append(row)
        side = self.size or min(shape[-2:])
        pixels = side**2 * max(shape[-2:]) / max(1, min(shape[-2:]))
        count = max(1, int(PIXELS_AT_ONCE / max(1, pixels)))
        for rows in groups.values():
            yield from torch.split(torch.tensor(rows), count)

    def _stylized(self, images: Tensor, styles: list[int], alpha: float) -> Tensor:
        """Returns images (B, C, H, W) in the styles of these numbers; type, range, device and channels are those of the images."""
        engine, codes = self.runner, list(self._bank.values())
        contents = check_batch(images.expand(-1, 3, -1, -1), "The image")
        if self.size is not None:
            contents = transforms.resize(contents, [self.size], antialias=True).clamp(0, 1)
        code = {name: torch.cat([codes[number][name] for number in styles]) for name in codes[0]}
        output = Stylizer(engine.model, [code], alpha=alpha, tile=None, engine=engine)(contents).to(images.device)
        if self.size is not None:
            output = transforms.resize(output, list(images.shape[-2:]), antialias=True).clamp(0, 1)
        if images.shape[1] == 1:
            output = transforms.rgb_to_grayscale(output)
        if not images.is_floating_point():
            output = output.mul(255).round()
        return output.to(images.dtype)

    @property
    def runner(self) -> Engine:
        """Returns what runs the model, which is loaded when it is first needed in a process."""
        if self._running is None:
            with torch.random.fork_rng(devices=[]):  # what follows does not depend on when the model is loaded
                network = (self._given or (load_model(self.model),))[0]
                try:
                    network = network.to(self.device or network.device).eval()
                except RuntimeError as error:
                    if "forked subprocess" not in str(error):
                        raise
                    raise StylezooError(
                        "A worker process that was forked cannot compute on a GPU: leave device out, or stylize batches in the"
                        " training loop."
                    ) from error
                self._running = (
                    default_engine(network) if self.engine == "auto" else create_engine(self.engine, network)
                )
            if "_bank" in vars(self):
                self._bank = {
                    name: {key: tensor.to(network.device) for key, tensor in code.items()}
                    for name, code in self._bank.items()
                }
        return self._running

    def _encoded(self, styles: Any, size: int | None) -> dict[str, StyleCode]:
        """Returns the codes of styles by their names; see the constructor."""
        engine = self.runner
        model, found = engine.model, list[tuple[str, StyleCode]]()
        words = [word for style in listed(styles) for word in self._words(model, style)]
        if not words:
            words = [*model.expand_styles([], expand_style), *([None] if model.kind == "single" else [])]
        for number, word in enumerate(words or model.check_styles([])):
            if isinstance(word, str) and is_reference(word):
                path, name = split_reference(word)
                found += load_codes(path, model, None if name is None else [name]).items()
                continue
            given = [] if word is None else load_styles(model, [word], size)
            (code,) = Stylizer(model, given, engine=engine).codes
            name = style_name(word) if isinstance(word, str) else f"style{number}"
            found.append((name, {key: tensor.clone() for key, tensor in code.items()}))  # no inference tensors
        bank: dict[str, StyleCode] = {}
        for name, code in found:
            bank[name if name not in bank else f"{name}_{len(bank)}"] = code
        return bank

    @staticmethod
    def _words(model: StyleModel, style: Any) -> list[Any]:
        """Returns the single styles that a style of the user stands for; a bank of codes is one, which is read once."""
        if not isinstance(style, (str, Path)) or is_reference(str(style)):
            return [str(style) if isinstance(style, Path) else style]
        return model.expand_styles([str(style)], expand_style)


def _count(value: Any) -> int:
    """Returns the number of images that have styles of their own: those of a batch, or 1; 0 for what is no image.

    Raises:
        ImageError: If it is a tensor, but no image.
    """
    if isinstance(value, Image.Image):
        return 1
    if not isinstance(value, Tensor) or (
        isinstance(value, tv_tensors.TVTensor) and not isinstance(value, (tv_tensors.Image, tv_tensors.Video))
    ):
        return 0
    axes = 4 if isinstance(value, tv_tensors.Video) else 3
    numbers = value.dtype == torch.uint8 or value.is_floating_point()
    if value.ndim < axes or value.shape[-3] not in (1, 3) or not numbers:
        raise ImageError(
            f"RandomStylize takes images (..., C, H, W) with 1 or 3 channels, uint8 or floats in [0, 1], not {described(value)}:"
            " where a sample has several tensors, wrap the image in tv_tensors.Image."
        )
    return value.shape[:-axes].numel()
