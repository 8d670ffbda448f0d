import av
import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Outline

from alan.data.readers.echonet import EchoNetDynamic, tracing_mask
from alan.errors import AlanWarning, DataError


def edit(path, change):
    table = pd.read_csv(path)
    change(table).to_csv(path, index=False)


def test_splits_attributes_and_phases_are_read(tmp_path, archives):
    data = EchoNetDynamic(archives.echonet(tmp_path))
    assert [record.split for record in data.records] == ["train", "val", "test", "train"]
    assert {record.view for record in data.records} == {"A4C"}
    assert data.records[0].attributes == {"EF": 50.0, "ESV": 40.0, "EDV": 80.0, "fps": 50.0}
    sample = data[0]
    assert sample.frames.shape == (8, 48, 56)
    assert (sample.ed, sample.es) == (5, 1)  # frame 5 is the larger one
    assert sample.mask_frames.tolist() == [1, 5]
    assert sample.spacing is None
    assert data[3].masks == {}
    assert data[3].ed is data[3].es is None


def test_masks_have_the_geometry_of_the_picture(tmp_path, archives):
    sample = EchoNetDynamic(archives.echonet(tmp_path))[0]
    for mask, frame in zip(sample.masks["lv"], sample.frames[sample.mask_frames], strict=True):
        dark = frame < 105
        assert 2 * (mask & dark).sum() / (mask.sum() + dark.sum()) > 0.93


def test_ed_and_es_are_found_among_any_number_of_traced_frames(tmp_path, archives):
    root = archives.echonet(tmp_path)
    third = [("0XA.avi", *line, 3) for line in archives.chords((24, 28), (16, 10))]
    columns = ["FileName", "X1", "Y1", "X2", "Y2", "Frame"]
    edit(root / "VolumeTracings.csv", lambda t: pd.concat([t, pd.DataFrame(third, columns=columns)]))
    edit(root / "VolumeTracings.csv", lambda t: t[~((t.FileName == "0XB.avi") & (t.Frame == 1))])
    data = EchoNetDynamic(root)
    assert data[0].mask_frames.tolist() == [1, 3, 5]
    assert (data[0].ed, data[0].es) == (5, 1)
    assert data[1].mask_frames.tolist() == [5]
    assert data[1].ed is data[1].es is None


def test_equal_areas_make_the_earlier_frame_ed(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(root / "VolumeTracings.csv", lambda t: pd.concat([t[t.Frame == 5], t[t.Frame == 5].assign(Frame=2)]))
    sample = EchoNetDynamic(root)[0]
    assert (sample.ed, sample.es) == (2, 5)


def test_rows_without_video_are_counted(tmp_path, archives):
    root = archives.echonet(tmp_path)
    (root / "Videos" / "0XB.avi").unlink()
    with pytest.warns(AlanWarning, match=r"skipped 1 rows of FileList.csv without a video \(0XB\)"):
        data = EchoNetDynamic(root)
    assert data.skipped == {"rows of FileList.csv without a video": 1}
    assert [record.id for record in data.records] == ["0XA", "0XC", "0XD"]


def test_traced_frames_beyond_the_end_are_counted(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(
        root / "VolumeTracings.csv", lambda t: t.assign(Frame=t.Frame.where(t.FileName != "0XA.avi", t.Frame + 4))
    )
    with pytest.warns(AlanWarning, match="0XA frame 9"):
        data = EchoNetDynamic(root)
    assert data.skipped == {"traced frames beyond the end of their video": 1}
    assert data[0].mask_frames.tolist() == [5]


def test_a_video_shorter_than_listed_is_refused(tmp_path, archives):
    root = archives.echonet(tmp_path)
    archives.video(root / "Videos" / "0XA.avi", np.full((4, 48, 56), 90, np.uint8))
    with pytest.raises(DataError, match=r"0XA\.avi: has 4 frames, but FileList\.csv states 8; get the video"):
        EchoNetDynamic(root)[0]


def test_traced_frames_beyond_the_end_are_counted_once_without_lengths(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(root / "FileList.csv", lambda t: t.drop(columns="NumberOfFrames"))
    archives.video(root / "Videos" / "0XA.avi", np.full((4, 48, 56), 90, np.uint8))
    data = EchoNetDynamic(root)
    with pytest.warns(AlanWarning, match="0XA frame 5"):
        assert data[0].mask_frames.tolist() == [1]
    assert data[0].mask_frames.tolist() == [1]
    assert data.skipped == {"traced frames beyond the end of their video": 1}


@pytest.mark.parametrize(
    ("table", "column"), [("FileList.csv", "Split"), ("FileList.csv", "FileName"), ("VolumeTracings.csv", "Y2")]
)
def test_a_missing_column_is_refused(tmp_path, archives, table, column):
    root = archives.echonet(tmp_path)
    edit(root / table, lambda t: t.drop(columns=column))
    with pytest.raises(DataError, match=rf"{table}: column '{column}' is missing"):
        EchoNetDynamic(root)


def test_a_missing_table_and_invalid_cells_are_refused(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(root / "FileList.csv", lambda t: t.assign(Split="TRIAN"))
    with pytest.raises(DataError, match=r"unknown Split 'TRIAN'; did you mean 'TRAIN'"):
        EchoNetDynamic(root)
    edit(root / "FileList.csv", lambda t: t.assign(Split="TRAIN", EF="high"))
    with pytest.raises(DataError, match="column 'EF' must hold numbers"):
        EchoNetDynamic(root)
    edit(root / "FileList.csv", lambda t: t.assign(EF=50))
    (root / "VolumeTracings.csv").unlink()
    with pytest.raises(DataError, match=r"VolumeTracings.csv: no such file"):
        EchoNetDynamic(root)


def test_a_video_listed_twice_is_refused(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(root / "FileList.csv", lambda t: pd.concat([t, t.tail(1)]))
    with pytest.raises(DataError, match="'0XD' is used more than once"):
        EchoNetDynamic(root)


def test_a_degenerate_tracing_names_the_video(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(root / "VolumeTracings.csv", lambda t: t.groupby(["FileName", "Frame"]).head(2))
    with pytest.raises(DataError, match=r"VolumeTracings.csv: 0XA frame 1: a tracing needs"):
        EchoNetDynamic(root)[0]


def test_differences_between_lists_and_tracings_are_listed(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(root / "FileList.csv", lambda t: t[t.FileName != "0XB"])
    (root / "Videos" / "0XD.avi").unlink()
    with pytest.warns(AlanWarning):
        data = EchoNetDynamic(root)
    assert [failure[::2] for failure in data.failures] == [
        ("0XD", "rows of FileList.csv without a video"),
        ("0XB", "videos without a row in FileList.csv"),
        ("0XB", "tracings of unlisted videos"),
    ]


@pytest.mark.parametrize("name", ["C:\\echo\\Videos\\{}.AVI", "Videos/{}.avi", "../../{}", "{}.avi"])
def test_paths_of_other_computers_are_understood(tmp_path, archives, name):
    root = archives.echonet(tmp_path)
    expected = [sample.masks["lv"].sum() for sample in EchoNetDynamic(root) if sample.masks]
    edit(root / "FileList.csv", lambda t: t.assign(FileName=[name.format(stem) for stem in t.FileName]))
    for path in list((root / "Videos").iterdir()):
        path.rename(path.with_suffix(".AVI"))
    data = EchoNetDynamic(root)
    assert [record.id for record in data.records] == ["0XA", "0XB", "0XC", "0XD"]
    assert [sample.masks["lv"].sum() for sample in data if sample.masks] == expected


@pytest.mark.parametrize("listed", ["{}.mp4", "{}.avi", "{}"])
def test_videos_in_other_containers_are_read(tmp_path, archives, listed):
    root = archives.echonet(tmp_path)
    expected = list(EchoNetDynamic(root))
    edit(root / "FileList.csv", lambda t: t.assign(FileName=[listed.format(stem) for stem in t.FileName]))
    for path in list((root / "Videos").iterdir()):
        remux(path, path.with_suffix(".mp4"))
        path.unlink()
    data = EchoNetDynamic(root)
    assert data.failures == []
    for sample, whole in zip(data, expected, strict=True):
        assert np.array_equal(sample.frames, whole.frames)
        assert (sample.record.id, sample.ed, sample.masks.keys()) == (
            whole.record.id,
            whole.ed,
            whole.masks.keys(),
        )
    (root / "Videos" / "0XA.AVI").write_bytes(b"")
    with pytest.raises(DataError, match=r"0XA\.AVI and .*0XA\.mp4 have the same name: keep one"):
        EchoNetDynamic(root)


def remux(source, target):
    """Put the packets of a video into another container."""
    with av.open(source) as old, av.open(target, "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_german_excel_tables_are_read(tmp_path, archives, encoding):
    root = archives.echonet(tmp_path)
    expected = [sample.masks["lv"] for sample in EchoNetDynamic(root) if sample.masks]
    for table in ("FileList.csv", "VolumeTracings.csv"):
        pd.read_csv(root / table).to_csv(root / table, index=False, sep=";", decimal=",", encoding=encoding)
    data = EchoNetDynamic(root)
    assert data.records[0].attributes == {"EF": 50.0, "ESV": 40.0, "EDV": 80.0, "fps": 50.0}
    for mask, sample in zip(expected, data, strict=False):
        assert np.array_equal(sample.masks["lv"], mask)


def test_a_list_without_ejection_fractions_is_read(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(root / "FileList.csv", lambda t: t[["FileName", "Split"]])
    data = EchoNetDynamic(root)
    assert data.records[0].attributes == {}
    assert (data[0].ed, data[0].es) == (5, 1)


@pytest.mark.parametrize(
    ("cells", "reason", "left"),
    [
        ({"EF": 600}, "EF is 600: give 1 to 100 %", {"ESV", "EDV", "fps"}),
        ({"EF": -5}, "EF is -5: give 1 to 100 %", {"ESV", "EDV", "fps"}),
        ({"EF": 0.55}, "EF is 0.55: give 1 to 100 %, not a fraction", {"ESV", "EDV", "fps"}),
        ({"EDV": 1e9}, r"EDV is 1e\+09: give 0.1 to 1000 ml", {"EF", "ESV", "fps"}),
        ({"ESV": -1}, "ESV is -1: give 0.1 to 1000 ml", {"EF", "EDV", "fps"}),
        ({"ESV": 90}, "ESV is 90: give at most EDV, which is 80 ml", {"fps"}),
        ({"FPS": 1e6}, r"fps is 1e\+06: give 1 to 5000 frames per second", {"EF", "ESV", "EDV"}),
        ({"FPS": 0}, "fps is 0: give 1 to 5000 frames per second", {"EF", "ESV", "EDV"}),
        ({"NumberOfFrames": 0}, "NumberOfFrames is 0: give a whole number from 1", {"EF", "ESV", "EDV", "fps"}),
        ({"NumberOfFrames": 7.5}, "NumberOfFrames is 7.5: give a whole number", {"EF", "ESV", "EDV", "fps"}),
    ],
)
def test_values_that_no_heart_has_are_listed_and_left_out(tmp_path, archives, cells, reason, left):
    root = archives.echonet(tmp_path)
    edit(root / "FileList.csv", lambda t: t.assign(**{k: [v, *t[k][1:]] for k, v in cells.items()}))
    with pytest.warns(AlanWarning, match=f"values that no heart has, the first in 0XA: FileList.csv: {reason}"):
        data = EchoNetDynamic(root)
    assert set(data.records[0].attributes) == left
    assert set(data.records[1].attributes) == {"EF", "ESV", "EDV", "fps"}
    assert [failure.file for failure in data.failures] == ["0XA"]
    assert data[0].mask_frames.tolist() == [1, 5]


@pytest.mark.parametrize("text", ["nan", ""])
def test_unknown_values_are_not_failures(tmp_path, archives, text):
    root = archives.echonet(tmp_path)
    edit(root / "FileList.csv", lambda t: t.assign(EF=text))
    assert "EF" not in EchoNetDynamic(root).records[0].attributes


def test_folds_and_outlines_of_echonet_pediatric_are_read(tmp_path, archives):
    root = archives.echonet(tmp_path)
    children = {"Sex": "F", "Age": 5, "Weight": 20, "Height": 110, "Split": range(4)}
    edit(root / "FileList.csv", lambda t: t[["FileName", "EF"]].assign(**children))
    lines = archives.chords((24, 28), (18, 12))
    outline = [(x1, y1) for x1, y1, _, _ in lines[1:]] + [(x2, y2) for _, _, x2, y2 in lines[:0:-1]]
    rows = [("0XA.avi", x, y, 5) for x, y in outline] + [("0XA.avi", 1, 1, "No Systolic")]
    archives.csv(root / "VolumeTracings.csv", ("FileName", "X", "Y", "Frame"), rows)
    with pytest.warns(AlanWarning, match=r"skipped 1 tracings without a frame \(0XA.avi frame 'No Systolic'\)"):
        data = EchoNetDynamic(root, split={"train": "0-1", "val": 2, "test": 3})
    assert [record.split for record in data.records] == ["train", "train", "val", "test"]
    assert data.records[2].attributes == {
        "EF": 50.0, "Sex": "F", "Age": "5", "Weight": "20", "Height": "110", "fold": 2,
    }  # fmt: skip
    assert np.array_equal(data[0].masks["lv"][0], tracing_mask(np.asarray(lines), (48, 56)))
    with pytest.warns(AlanWarning):
        assert {record.split for record in EchoNetDynamic(root).records} == {""}


def test_tracings_that_occur_twice_are_refused_by_name(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(root / "VolumeTracings.csv", lambda t: pd.concat([t, t]))
    with pytest.raises(DataError, match=r"VolumeTracings.csv: 0XA frame 1: a tracing of 32 lines has 2 long axes"):
        EchoNetDynamic(root)[0]


class TestTracingMask:
    def test_the_mask_of_a_traced_rectangle_matches_hand_drawn_pixels(self):
        lines = np.array([[5, 1, 5, 8], [2, 1, 6, 1], [2, 4, 6, 4], [2, 8, 6, 8]], float)
        expected = np.zeros((12, 10), bool)
        expected[1:9, 2:7] = True
        assert np.array_equal(tracing_mask(lines, (12, 10)), expected)

    def test_masks_equal_a_point_in_polygon_loop(self, archives):
        lines = np.asarray(archives.chords((30.3, 25.7), (20, 11)))
        mask = tracing_mask(lines, (60, 50))
        corners = np.rint(lines[1:])
        outline = Outline(np.concatenate([corners[:, :2], corners[::-1, 2:]]))
        for row in range(60):
            for column in range(50):
                inside = outline.contains_point((column, row), radius=1e-9)
                inside |= bool(outline.contains_point((column, row), radius=-1e-9))
                assert mask[row, column] == inside

    def test_lines_may_have_any_order_and_direction(self, archives):
        lines = np.asarray(archives.chords((30.3, 25.7), (20, 11)))
        turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
        for tilted in (lines, ((lines.reshape(-1, 2) - 28) @ turn + 28).reshape(-1, 4)):
            expected = tracing_mask(tilted, (60, 50))
            assert expected.sum() > 500
            rng = np.random.default_rng(0)
            for _ in range(5):
                mixed = rng.permutation(tilted)
                swapped = rng.random(len(mixed)) < 0.5
                mixed[swapped] = mixed[swapped][:, [2, 3, 0, 1]]
                assert np.array_equal(tracing_mask(mixed, (60, 50)), expected)

    def test_borders_may_touch_the_frame(self):
        lines = np.array([[2, 0, 2, 9], [-1, 2, 4, 2], [-1, 6, 4, 6]], float)
        expected = np.zeros((10, 10), bool)
        expected[2:7, :5] = True
        assert np.array_equal(tracing_mask(lines, (10, 10)), expected)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda lines: np.concatenate([lines, lines]), "of 32 lines has 2 long axes"),
            (lambda lines: lines[1:], "has no long axis"),
            (lambda lines: lines / 60, "lie between 0 and 1; give them in pixels, not as fractions"),
            (lambda lines: 7 * lines, "32 points of a tracing lie outside the frame of 50 x 60"),
            (lambda lines: lines - [0, 15, 0, 15], r"3 of 32 points .* the first at \(25.7, -4.7\)"),
        ],
    )  # fmt: skip
    def test_tracings_that_contradict_the_picture_are_refused(self, archives, change, message):
        lines = np.asarray(archives.chords((30.3, 25.7), (20, 11)))
        with pytest.raises(DataError, match=message):
            tracing_mask(change(lines), (60, 50))

    @pytest.mark.parametrize("lines", [np.zeros((2, 4)), np.zeros((5, 3)), np.full((5, 4), np.nan)])
    def test_invalid_tracings_are_refused(self, lines):
        with pytest.raises(DataError, match="a tracing"):
            tracing_mask(lines, (10, 10))


def test_empty_names_of_merged_cells_are_refused(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(root / "VolumeTracings.csv", lambda t: t.assign(FileName=t.FileName.where(~t.FileName.duplicated())))
    with pytest.raises(DataError, match="'FileName' has an empty cell, perhaps below merged ones; name the video"):
        EchoNetDynamic(root)


def test_videos_of_another_size_than_listed_give_a_warning(tmp_path, archives):
    root = archives.echonet(tmp_path)
    edit(root / "FileList.csv", lambda t: t.assign(FrameHeight=24, FrameWidth=28))
    data = EchoNetDynamic(root)
    with pytest.warns(AlanWarning, match=r"0XA\.avi: has 48 x 56 pixels, but FileList\.csv states 24 x 28"):
        assert data[0].masks["lv"].any()
