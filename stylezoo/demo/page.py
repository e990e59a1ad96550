"""The layout of the page, in Gradio: inputs on the left; an image, all models, and a video on the right."""

from __future__ import annotations

import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # which Gradio reads when it is imported

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from stylezoo.controls import ClipControls, Controls, Stability
from stylezoo.data.synthetic import draw
from stylezoo.demo.backend import Backend, Made, Progress, Request, StoppedByUser
from stylezoo.errors import StylezooError
from stylezoo.images import read_image

Work = Callable[[dict[Any, Any], Path, str, Progress], Iterator[Any]]
"""Does what a button is for, with the values of components, a folder for files, somebody's session, and what shows steps."""

STYLES = 4
"""Style images that can be blended."""

COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#ffe119")
"""What the region of each style is painted with."""

PAINTINGS = (0, 12, 10, 4)
"""Numbers of the procedural paintings (`stylezoo.data.synthetic.draw`) that are examples of styles."""

KEPT_COLORS = [
    ("no", "none"),
    ("recolor the style (coral)", "coral"),
    ("take brightness only (luminance)", "luminance"),
]
"""How the colors of the photo are kept, by what the page calls it."""

EDITED_SIDE = 640
"""Long side in pixels of the photo on which regions are painted."""

STEP = 64
"""Step of the sizes in pixels."""

THEME = gr.themes.Default(
    font=["system-ui", "sans-serif"],  # no font of another server
    font_mono=["ui-monospace", "monospace"],
)

CSS = ".region-legend span {display: inline-block; padding: 0 0.6em; border-radius: 0.5em; color: white}"


class Inputs:
    """The inputs that all tabs share.

    Args:
        backend: What stylizes.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.model = gr.Dropdown(backend.models, value=backend.default, label="Model", filterable=True)
        self.about = gr.Markdown(_about(backend, backend.default))
        with gr.Row():
            self.content = _image_input("Photo", 240, "content")
            first = _image_input("Style", 240, "style")
        self.trained = gr.Dropdown([], label="Trained styles", multiselect=True, max_choices=STYLES, visible=False)
        self.folder = tempfile.TemporaryDirectory(prefix="stylezoo-examples-")  # gone when the program ends
        with gr.Row():
            for label, target, images in (("Photos", self.content, _photos()), ("Styles", first, _paintings())):
                gr.Examples(_saved(images, Path(self.folder.name), label.lower()), [target], label=f"{label} to try")
        self.alpha = gr.Slider(0, 1, 1, step=0.05, label="Strength of the style (alpha)")
        with gr.Row():
            most = backend.limits.side // STEP * STEP
            self.size = gr.Slider(
                0, most, min(512, most), step=STEP, label="Size", info="Short side in pixels; 0: its own"
            )
            self.style_size = gr.Slider(
                0, most, 0, step=STEP, label="Style size", info="Larger: coarser strokes; 0: its own"
            )
        self.preserve_color = gr.Radio(KEPT_COLORS, value="none", label="Keep the colors of the photo")
        with gr.Accordion("Blend several styles", open=False):
            with gr.Row():
                others = [
                    _image_input(f"Style {number}", 140, f"style-{number}", 90) for number in range(2, STYLES + 1)
                ]
            with gr.Row():
                self.weights = [
                    gr.Slider(0, 1, 1, step=0.05, label=f"Weight {number}", min_width=140)
                    for number in range(1, STYLES + 1)
                ]
        self.styles = [first, *others]
        with gr.Accordion("Styles in regions", open=False):
            self.editor()
        self.model.change(self.chosen, self.model, self.dependent, concurrency_limit=None, show_progress="hidden")

    def editor(self) -> None:
        """Adds the photo on which regions are painted."""
        legend = " ".join(f'<span style="background:{color}">style {n}</span>' for n, color in enumerate(COLORS, 1))
        gr.Markdown(
            f'<div class="region-legend">Paint where a style applies: {legend}. Of a single style, what is not painted'
            " stays as in the photo; of several, it takes the first.</div>",
        )
        self.painted = gr.ImageEditor(
            type="pil",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=40, colors=[*COLORS], color_mode="fixed"),
            label="Regions",
            elem_id="regions",
        )
        self.content.change(_to_paint, self.content, self.painted, concurrency_limit=None, show_progress="hidden")

    @property
    def components(self) -> set[Any]:
        """What a request is made of."""
        single = {self.model, self.content, self.trained, self.alpha, self.size, self.style_size, self.preserve_color}
        return {*single, *self.styles, *self.weights, self.painted}

    @property
    def dependent(self) -> list[Any]:
        """What looks different for another model."""
        return [self.about, self.trained, self.alpha, *self.styles]

    def chosen(self, name: str) -> list[Any]:
        """Returns how `dependent` look for a model."""
        with told():
            model = self.backend.model(name)
        takes_image = model.kind in ("arbitrary", "optimization")
        styles = list(model.styles) if model.kind == "multi" else []
        alpha = gr.Slider(value=1, interactive=False) if model.alpha_is_fixed else gr.Slider(interactive=True)
        trained = gr.update(choices=styles, value=styles[:1], visible=bool(styles))
        return [_about(self.backend, name), trained, alpha, *(gr.update(visible=takes_image) for _ in self.styles)]

    def request(self, values: Mapping[Any, Any], content: str | None = None, *, regions: bool = True) -> Request:
        """Returns what the inputs ask for.

        Args:
            values: {component: value}.
            content: Another content than the photo.
            regions: Whether painted regions count.
        """
        model = self.backend.model(values[self.model])
        given = [(values[style], values[weight]) for style, weight in zip(self.styles, self.weights, strict=True)]
        if model.kind == "multi":
            given = list(zip(values[self.trained] or [], (values[weight] for weight in self.weights), strict=False))
        elif model.kind == "single":
            given = []
        styles = [style for style, _ in given if style]
        masks = region_masks(values[self.painted], max(1, len(styles))) if regions else []
        weights = [weight for style, weight in given if style] if len(styles) > 1 and not masks else None
        controls = Controls(
            alpha=values[self.alpha],
            style_weights=weights,
            preserve_color=values[self.preserve_color],
            size=values[self.size] or None,
            style_size=values[self.style_size] or None if styles and model.kind != "multi" else None,
            has_masks=bool(masks),
        )
        return Request(values[self.model], content or values[self.content], styles, controls, masks)


def build(backend: Backend) -> gr.Blocks:
    """Returns the page.

    Args:
        backend: What stylizes.
    """
    page: gr.Blocks
    with gr.Blocks(title="stylezoo", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        gr.Markdown(
            "# stylezoo\nNeural style transfer: a photo in the style of another image. All of it is computed on this machine."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=340):
                inputs = Inputs(backend)
            with gr.Column(scale=3, min_width=340):
                for label, tab in (("One model", _image_tab), ("All models", _models_tab), ("Video", _video_tab)):
                    with gr.Tab(label):
                        tab(inputs)
        page.unload(_stopping(backend))  # whoever leaves does not keep others waiting
    page.queue(max_size=backend.limits.waiting, default_concurrency_limit=1)
    return page


def _image_tab(inputs: Inputs) -> None:
    """Adds what stylizes one photo by one model."""
    run, stop = _buttons("Stylize", "stylize")
    result = gr.ImageSlider(type="filepath", label="Before and after", elem_id="result", max_height=720)
    with gr.Row():
        suffix = gr.Dropdown([".png", ".jpg", ".webp"], value=".png", label="Format", min_width=80)
        download = gr.DownloadButton(
            "Download, with its settings inside", interactive=False, elem_id="download", scale=3
        )
    notes = gr.Markdown(elem_id="notes")

    def stylized(values: dict[Any, Any], folder: Path, who: str, progress: Progress) -> Iterator[Any]:
        made = inputs.backend.image(inputs.request(values), folder, values[suffix], who, progress)
        button = gr.update(value=str(made.path), interactive=True)
        yield (str(made.before), str(made.path)), button, _told(made)

    _on_click(run, stop, inputs, stylized, inputs.components | {suffix}, [result, download, notes], "stylize")


def _models_tab(inputs: Inputs) -> None:
    """Adds what stylizes one photo by many models."""
    names = inputs.backend.models
    chosen = gr.Dropdown(names, value=inputs.backend.one_of_each_system(), multiselect=True, label="Models")
    run, stop = _buttons("Stylize by all of these", "compare")
    sheet = gr.Gallery(
        label="The first style, by each model", columns=3, object_fit="contain", height="auto", elem_id="sheet"
    )

    def compared(values: dict[Any, Any], folder: Path, who: str, progress: Progress) -> Iterator[Any]:
        style, size, style_size = (values[each] for each in (inputs.styles[0], inputs.size, inputs.style_size))
        controls = Controls(size=size or None, style_size=style_size or None)
        asked = Request("", values[inputs.content], [style] if style else [], controls)
        yield from inputs.backend.compare(values[chosen] or [], asked, folder, who)

    _on_click(run, stop, inputs, compared, inputs.components | {chosen}, [sheet], "compare")


def _video_tab(inputs: Inputs) -> None:
    """Adds what stylizes a video."""
    limits = inputs.backend.limits
    with gr.Row():
        clip = gr.Video(label="Video", elem_id="clip", height=300, include_audio=True)
        result = gr.Video(label="Output", elem_id="clip-result", height=300, interactive=False)
    with gr.Row():
        stability = gr.Radio(get_args(Stability), value="flow", label="Keep frames from flickering")
        seconds = gr.Slider(1, limits.seconds, min(5, limits.seconds), step=1, label="Seconds")
    run, stop = _buttons("Stylize the video", "stylize-clip")
    notes = gr.Markdown(elem_id="clip-notes")

    def stylized(values: dict[Any, Any], folder: Path, who: str, progress: Progress) -> Iterator[Any]:
        asked = inputs.request(values, values[clip] or "", regions=False)
        clips = ClipControls(values[stability], seconds=values[seconds])
        made = inputs.backend.clip(asked, clips, folder, who, progress)
        yield str(made.path), _told(made)

    _on_click(run, stop, inputs, stylized, inputs.components | {clip, stability, seconds}, [result, notes], "video")


def _buttons(label: str, name: str) -> tuple[gr.Button, gr.Button]:
    """Adds what starts some work, and what stops it."""
    with gr.Row():
        run = gr.Button(label, variant="primary", elem_id=name, scale=4)
        stop = gr.Button("Stop", elem_id=f"{name}-stop", min_width=60)
    return run, stop


def _on_click(
    run: gr.Button, stop: gr.Button, inputs: Inputs, work: Work, given: set[Any], outputs: Sequence[Any], name: str
) -> None:
    """Lets buttons start and stop some work; all work of all users is done one after the other."""
    nothing = gr.skip() if len(outputs) == 1 else tuple(gr.skip() for _ in outputs)

    def worked(values: dict[Any, Any], request: gr.Request, progress: gr.Progress = gr.Progress()) -> Iterator[Any]:  # noqa: B008
        try:
            with told(), inputs.backend.folder() as folder:
                yield from work(values, folder, str(request.session_hash), _shown(progress))
        except StoppedByUser:  # the output before stays
            gr.Info("Stopped.")
            yield nothing

    run.click(worked, given, [*outputs], concurrency_id="models", concurrency_limit=1, api_name=name)

    stop.click(_stopping(inputs.backend), queue=False, api_visibility="private")


def _stopping(backend: Backend) -> Callable[[gr.Request], None]:
    """Returns what ends the work for somebody."""

    def stopped(request: gr.Request) -> None:
        backend.stop(str(request.session_hash))

    return stopped


def _image_input(label: str, height: int, name: str, width: int = 160) -> gr.Image:
    """Adds an image that is uploaded and passed on as the file that it is: this package reads it, with its own messages."""
    image = gr.Image(label=label, type="filepath", height=height, elem_id=name, min_width=width)
    # Gradio would open the file before this package can; and a subclass would write a stub file beside this one.
    image.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return image


def region_masks(painted: Mapping[str, Any] | None, count: int) -> list[Image.Image]:
    """Returns the regions of styles that were painted.

    Args:
        painted: What `gradio.ImageEditor` gives: its layers are images (RGBA), painted in `COLORS`.
        count: Number of styles.

    Returns:
        One mask for each style, white where it applies; none if nothing is painted.

    Raises:
        StylezooError: If a region is painted for a style that is not there.
    """
    layers = [np.asarray(layer.convert("RGBA")) for layer in (painted or {}).get("layers") or []]
    number = np.full(layers[0].shape[:2] if layers else (0, 0), -1)
    colors = np.array([[int(color[start : start + 2], 16) for start in (1, 3, 5)] for color in COLORS])
    for layer in layers:
        opaque = layer[..., 3] >= 128
        nearest = np.abs(layer[..., None, :3].astype(int) - colors).sum(-1).argmin(-1)
        number[opaque] = nearest[opaque]
    if not (number >= 0).any():
        return []
    if number.max() >= count > 1:
        raise StylezooError(
            f"There is a region for style {number.max() + 1}, but there are {count} styles: choose one more."
        )
    if count == 1:
        return [Image.fromarray(np.where(number >= 0, 255, 0).astype(np.uint8))]
    number[number < 0] = 0
    return [Image.fromarray(np.where(number == style, 255, 0).astype(np.uint8)) for style in range(count)]


def _to_paint(content: str | None) -> Any:
    """Returns the photo for the editor of regions, small."""
    if content is None:
        return None
    with told():
        photo = read_image(content, min_side=EDITED_SIDE).convert("RGB")
    photo.thumbnail((EDITED_SIDE, EDITED_SIDE))
    return {"background": photo, "layers": [], "composite": None}


@contextmanager
def told() -> Iterator[None]:
    """Shows the errors of its block on the page; those that are bugs are printed in full in the terminal."""
    try:
        yield
    except StoppedByUser:
        raise
    except StylezooError as error:
        raise gr.Error(_without_folders(str(error)), print_exception=False) from error
    except Exception as error:
        traceback.print_exc()
        raise gr.Error("This is a fault of the program: its terminal shows more.", print_exception=False) from error


def _without_folders(text: str) -> str:
    """Returns a message without the folders of this machine in which uploads and outputs lie.

    >>> _without_folders(f"{get_upload_folder()}/0a1b/photo.png is not an image.")
    'photo.png is not an image.'
    """
    folders = (re.escape(get_upload_folder()) + r"/\w+/", re.escape(tempfile.gettempdir()) + r"/stylezoo-\w+/")
    return re.sub("|".join(folders), "", text)


def _told(made: Made) -> str:
    return "\n\n".join(made.notes)


def _shown(progress: gr.Progress) -> Progress:
    """Returns what shows the steps of some work on the page."""

    def show(done: int, total: int | None) -> None:
        progress((done, total))

    return show


def _about(backend: Backend, name: str) -> str:
    """Returns a line about a model, as Markdown."""
    system = backend.system(name)
    if system is None:
        return ""
    takes = {
        "arbitrary": "any image as style",
        "multi": "styles that it was trained on",
        "single": "the style that it was trained on",
    }
    kind = takes.get(system.kind, "any image as style, optimized for minutes")
    return f"{system.class_name} ({system.year}), {kind} - [paper]({system.paper})"


def _saved(images: Sequence[Image.Image], folder: Path, name: str) -> list[list[str]]:
    """Writes images, and returns their files as `gradio.Examples` takes them."""
    paths = [folder / f"{name}_{number}.jpg" for number, _ in enumerate(images, 1)]
    for image, path in zip(images, paths, strict=True):
        image.save(path, quality=92)
    return [[str(path)] for path in paths]


def _photos() -> list[Image.Image]:
    """Returns public-domain photos that scikit-image has; where it is not installed, procedural ones."""
    try:
        data: Any = import_module("skimage.data")
    except ImportError:
        return [draw("photos", number, 384) for number in range(4)]
    return [Image.fromarray(photo()) for photo in (data.astronaut, data.chelsea, data.coffee, data.rocket)]


def _paintings() -> list[Image.Image]:
    """Returns procedural paintings."""
    return [draw("paintings", number, 384) for number in PAINTINGS]


def launch(backend: Backend, host: str = "127.0.0.1", port: int | None = None, browser: bool = False) -> gr.Blocks:
    """Serves the page in the background, until the program ends or the page is closed.

    Args:
        backend: What stylizes.
        host: Address of the interface: 127.0.0.1 for this machine only.
        port: Of the address; None takes the first free one from 7860 on.
        browser: Whether a browser is opened.

    Returns:
        The page, whose ``local_url`` is its address.

    Raises:
        StylezooError: If the address is taken or not this machine's.
    """
    page = build(backend)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            max_file_size=f"{backend.limits.megabytes}mb",
            ssr_mode=False,
            footer_links=["api"],
            theme=THEME,
            css=CSS,
        )
    except OSError as error:
        raise StylezooError(
            f"The page cannot be served at {host}:{port or 7860}: choose another --host or --port."
        ) from error
    return page
