"""Assembly of a model for ``alan analyze`` from parcels, white boxes and a bank of views."""

from __future__ import annotations

import logging
from pathlib import Path

from alan.bounds import NonNegativeInt, PositiveInt, Seed, bounded
from alan.data.sample import VIEWS
from alan.errors import ConfigError
from alan.runs import open_run, settings

_log = logging.getLogger(__name__)


@bounded
def assemble_model(
    parcels: str,
    white_boxes: list[str],
    out: str,
    *,
    views: list[str] = ["A4C", "A2C"],  # noqa: B006 (shown by --help; never changed)
    bank: list[str] | None = None,
    bank_frames: PositiveInt | dict[str, PositiveInt] = 480,
    bank_other: NonNegativeInt = 240,
    bank_copies: NonNegativeInt = 2,
    archive: list[str] | None = None,
    archive_split: str | None = "train",
    others: list[str] = [],  # noqa: B006 (shown by --help; never changed)
    size: PositiveInt = 112,
    seed: Seed = 0,
    overwrite: bool = False,
) -> Path:
    """Assemble a model that ``alan analyze --model OUT`` takes.

    The folder holds copies of everything that the model needs, so that it can be moved or sent as a whole: the
    manifest, ``parcels.safetensors`` and ``backbone.safetensors``, the white boxes, and with ``bank`` the bank of
    labelled frames by which views are recognised, ``views.safetensors``. Running the same command again on the
    same inputs changes nothing.

    Args:
        parcels: Path or name of the parcel model.
        white_boxes: Run folders of ``alan name`` on these parcels; each structure in one of them, with one white
            box for each phase or one for both, or each of its phases in another one.
        out: Folder of the model.
        views: Views that the white boxes serve, such as A4C.
        bank: Frame stores of simulated archives whose frames form the bank of views; null for a model that does
            not recognise views, for loops whose view is given.
        bank_frames: Number of frames per view in the bank, each of another sequence; or the number for each view,
            such as {A4C: 480, PLAX: 240}.
        bank_other: Number of simulated pictures of other things in the bank.
        bank_copies: Number of altered copies of each frame of the bank, which are used together with it to compute
            the directions in which the views differ.
        archive: Frame stores of a real archive that has about as many loops of each of ``views``. The bank is
            shifted by the difference between its frames and the simulated ones; no label is read. Null for no
            shift.
        archive_split: Split of the frames of the archive; null takes all.
        others: Paths or names of further models, which measure views that this one does not, such as
            alan-sim-plax and alan-sim-psax; they are copied too.
        size: Side in pixels to which frames are resized for the model.
        seed: Seed of the draw of the bank.
        overwrite: Replace a model with another configuration.

    Returns:
        The folder.

    Raises:
        ConfigError: The folder contains a model with another configuration, or a structure has two white boxes.
        DataError: A folder holds no white box, a store has no frame of a view, or a view belongs to two models.
        AlanError: An input is missing or belongs to other parcels; the folder is left as it was.
    """
    given = settings(locals())
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views:
        wrong = repr(unknown[0]) if unknown else "empty"
        raise ConfigError(f"views is {wrong}: give some of {', '.join(VIEWS)}")
    if not white_boxes:
        raise ConfigError("white_boxes is empty: give the run folders of `alan name`")
    if archive and not bank:
        raise ConfigError("archive is given without a bank of views: give bank too")
    from alan.analysis.bank import draw_archive, draw_bank
    from alan.analysis.manifest import SUFFIX
    from alan.analysis.model import AnalysisModel
    from alan.analysis.phase_boxes import read_boxes
    from alan.analysis.views import ViewBank
    from alan.data.store.reader import FrameStore
    from alan.parcels.model import load_parcels

    folder = Path(out)
    locked = load_parcels(parcels)
    known = None
    if bank:
        drawn = draw_bank([FrameStore(path) for path in bank], bank_frames, bank_other, size, seed)
        known = ViewBank.build(locked.backbone, *drawn, copies=bank_copies, seed=seed)
        if archive:
            real = draw_archive([FrameStore(path) for path in archive], archive_split, size, seed)
            known = known.with_archive(real, views)
    names = [Path(other).name.removesuffix(SUFFIX) for other in others]
    if len(set(names)) < len(names):
        raise ConfigError(f"others is {others}: their names must differ, because each gets a folder of its name")
    further = {name: AnalysisModel.load(other) for name, other in zip(names, others, strict=True)}
    model = AnalysisModel(locked, dict.fromkeys(views, read_boxes(white_boxes)), size, known, others=further)
    config = {**given, "inputs": model.fingerprint}
    with open_run(folder, "assemble", config, overwrite, AnalysisModel.files(folder.name)) as run:
        if not run.finished:
            model.save(folder, folder.name)
            AnalysisModel.load(folder)  # fails unless every file exists and fits
            run.finish()
    _log.info("%s: model of %s for %s", folder, ", ".join(model.structures(views[0])), ", ".join(views))
    return folder
