"""The page for experts: its tabs, and a server that only this machine can reach."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from alan.app.session import Uploads
from alan.bounds import PositiveInt, bounded
from alan.errors import ConfigError
from alan.extras import third_party
from alan.shipped import PARCELS

_log = logging.getLogger(__name__)

#: Seconds between deletions of old files, and the age from which a file is old.
_SWEEP = (600, 6 * 3600)
#: Fonts of the system, so that the browser downloads none.
_FONTS = ["system-ui", "sans-serif"]
#: First words of the page.
_INTRODUCTION = """Research software, not a medical device: no number may be used for the care of a patient.

**Analyze** measures a loop. **Parcels** shows and edits the image regions (parcels) that make up an outline.
**Views** shows why a loop was taken for a view."""
#: Content security policy: the browser may load from this server only.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws: data: blob:; frame-ancestors 'self'"
)


@bounded
def ui(
    *,
    model: str = "alan-sim",
    parcels: str | None = None,
    white_boxes: list[str] | None = None,
    networks: list[str] | None = None,
    size: PositiveInt = 112,
    device: str = "cpu",
    host: str = "127.0.0.1",
    port: Annotated[int, Interval(ge=0, le=65535)] = 7860,
    browser: bool = True,
) -> None:
    """Open a page in the browser: analyze a loop, edit white boxes parcel by parcel, try networks.

    The page is served on this machine only. Uploads are deleted as soon as they have been read, all other files
    when the last page is closed and when the command ends. Nothing is sent anywhere. Ctrl-C ends the command.

    Args:
        model: Path or name of the model of the analysis, whose white boxes are edited.
        parcels: Path or name of another parcel model whose white boxes are edited; null for that of the model.
        white_boxes: Paths or names of white boxes of rule beta on these parcels, one per structure; null for those
            of the model.
        networks: Networks to try: segmenter.safetensors, or the JSON of an ensemble or of soft parcels.
        size: Side in pixels of the frames of networks and of other parcels.
        device: Device that runs the networks: cpu, cuda, cuda:1, or auto for a GPU where there is one.
        host: Address to listen on; any other than 127.0.0.1 lets other machines see uploads.
        port: Port to listen on; 0 takes a free one.
        browser: Open the page in the browser.

    Raises:
        ConfigError: Gradio is not installed, white boxes are missing for other parcels, or the port is taken.
        ParameterError: There is no such device.
        AlanError: A model is missing or damaged.
    """
    if white_boxes is None and parcels is not None:
        raise ConfigError(
            f"no white box is given for the parcels {parcels}: make some with `alan name --parcels {parcels}`, "
            "then --white_boxes '[DIR/lv.json]'"
        )
    with tempfile.TemporaryDirectory(prefix="alan-ui-") as root:
        uploads = Uploads(Path(root))
        page = build_page(
            uploads,
            model=model,
            parcels=parcels or PARCELS,
            white_boxes=white_boxes or (),
            networks=networks or (),
            size=size,
            device=device,
        )
        url = serve(page, host, port, browser=browser)
        _log.info("the page is at %s (Ctrl-C ends it)", url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            _log.info("closed")
        finally:
            uploads.end()
            page.close(verbose=False)  # it waits for tasks, but ends the connections of open pages
            atexit.register(gc.freeze)  # looking for cycles among all objects of Gradio takes more than a second


def gradio(root: Path) -> Any:
    """Import Gradio without telemetry, with all its files in one folder.

    Raises:
        ConfigError: Gradio is not installed.
    """
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_MCP_SERVER", "GRADIO_ROOT_PATH"):
        os.environ.pop(name, None)
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    module = third_party("gradio", "ui")
    os.environ["GRADIO_TEMP_DIR"] = str(root.resolve())
    return module


def build_page(
    uploads: Uploads,
    *,
    model: str,
    parcels: str,
    white_boxes: Sequence[str],
    networks: Sequence[str],
    size: int,
    device: str = "cpu",
) -> Any:
    """Build the page.

    Args:
        uploads: Folder for its files.
        model: Path or name of the model of the analysis.
        parcels: Path or name of a parcel model.
        white_boxes: Paths or names of white boxes on it; without any, those of the model are edited.
        networks: Paths of networks.
        size: Side of the frames of networks and of other parcels.
        device: Device that runs the networks, see :func:`alan.devices.choose_device`.

    Returns:
        A ``gradio.Blocks``.
    """
    gr = gradio(uploads.root)
    from alan.analysis.model import AnalysisModel
    from alan.analysis.phase_boxes import PhaseBoxes
    from alan.app.analyze_tab import AnalyzeTab
    from alan.app.controls import check_number
    from alan.app.models_tab import ModelsTab, PictureModel
    from alan.app.parcels_tab import ParcelsTab
    from alan.app.session import with_session
    from alan.app.views_tab import ViewsTab
    from alan.devices import choose_device
    from alan.downstream.whitebox.several import load_white_boxes

    gr.Number.raise_if_out_of_bounds = staticmethod(check_number)  # sliders use it too
    chosen = choose_device(device)
    analysis = AnalysisModel.load(model).to(chosen)
    edited = analysis
    if white_boxes:
        given = load_white_boxes(parcels, white_boxes)
        boxes = {name: PhaseBoxes(box, box) for name, box in given.boxes.items()}
        edited = AnalysisModel(given.model.to(chosen), {"A4C": boxes}, size)
    tabs = {
        "Analyze": AnalyzeTab(model, uploads, device),
        "Parcels": ParcelsTab(edited, uploads),
        "Views": ViewsTab(analysis, uploads),
    }
    if networks:
        tabs["Models"] = ModelsTab([PictureModel(path, size, device) for path in networks], uploads)
    with gr.Blocks(title="ALAN", analytics_enabled=False, delete_cache=_SWEEP) as page:
        gr.Markdown(f"# ALAN\n\n{_INTRODUCTION}", elem_id="introduction")
        for title, tab in tabs.items():
            with gr.Tab(title):
                tab.build()  # type: ignore[attr-defined]
        page.load(with_session(gr, uploads.opened), api_visibility="private")
        page.unload(with_session(gr, uploads.closed))
    return page


def serve(page: Any, host: str, port: int, *, browser: bool) -> str:
    """Start the server of a page, and return its address.

    Raises:
        ConfigError: The port is taken.
    """
    from alan.app.controls import GUARD
    from alan.app.session import MAX_UPLOAD_MB

    gr = third_party("gradio", "ui")
    middleware = third_party("starlette.middleware", "ui").Middleware
    try:
        _, url, _ = page.queue(default_concurrency_limit=1).launch(
            server_name=host,
            server_port=port or None,
            inbrowser=browser,
            prevent_thread_lock=True,
            share=False,
            quiet=True,
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            max_file_size=MAX_UPLOAD_MB * 2**20,
            head=GUARD,
            theme=gr.themes.Default(font=_FONTS, font_mono=["monospace"]),
            app_kwargs={"middleware": [middleware(_Policy)]},
        )
    except OSError as error:
        raise ConfigError(
            f"{host}:{port} is in use, or no address of this machine: give another --port, or 0 for a free one"
        ) from error
    return str(url)


class _Policy:
    """Forbids browsers to load anything from other servers."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            await send(message)

        await self.app(scope, receive, guarded)
