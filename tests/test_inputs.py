"""Where audio comes from: folders, standard input, lists, limits of length, and messages about sources."""

import io
import json
import sys
from pathlib import Path

import factories as make
import numpy as np
import pytest
import soundfile

from emodistill import AudioError, AudioTooLongError
from emodistill.audio import decoding, load, load_blocks
from emodistill.audio.decoding import MEDIA_SUFFIXES, SUFFIXES, name_in_messages, read_header
from emodistill.audio.waveform import load_bounded
from emodistill.console import skipped_message
from emodistill.inference.input_files import find_audio_files

Call = make.CommandLine


def write_media(path: Path, codec: str = "aac", length_s: float = 1.0) -> Path:
    """Write a container that libsndfile cannot read."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        samples = make.speech(length_s, 150, rate_hz=48_000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(
            format=stream.codec_context.format, rate=48_000, layout="mono",
            frame_size=stream.codec_context.frame_size,
        )  # fmt: skip
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        for part in [*parts, None]:
            container.mux(stream.encode(part))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have it: recordings of several kinds, a picture, notes, source text."""
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    soundfile.write(folder / "a.wav", make.speech(0.6, 120, seed=1), make.RATE)
    write_media(folder / "b.m4a")
    write_media(folder / "below" / "C.MP4")
    write_media(folder / "below" / "d.webm", "libopus")
    write_media(folder / "e.mkv")
    write_media(folder / "f.3gp")
    write_media(folder / "g.ts", "mp2")
    (folder / "notes.txt").write_text("no audio")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "source.ts").write_text("Good: let this = 1;" * 40)
    (folder / "._a.wav").write_bytes(b"\0")
    return folder


@pytest.fixture
def without_av(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An install without the [media] extra."""
    assert folder.is_dir(), "its files are written before"
    monkeypatch.setitem(sys.modules, "av", None)


# --- folders -------------------------------------------------------------------------------------


def test_every_audio_and_video_file_of_a_folder_is_decoded(emodistill: Call, folder: Path) -> None:
    result = emodistill("predict", folder, "-f", "json")
    rows = json.loads(result.out)
    names = [Path(row["path"]).name for row in rows]
    assert names == ["a.wav", "b.m4a", "C.MP4", "d.webm", "e.mkv", "f.3gp", "g.ts"]
    assert [row["error"] for row in rows] == [None] * 7
    assert result.code == 0
    assert "skipped" not in result.err


@pytest.mark.parametrize("verb", ["predict", "timeline"])
@pytest.mark.usefixtures("without_av")
def test_files_that_this_install_cannot_decode_are_rows_and_one_line(
    emodistill: Call, folder: Path, verb: str
) -> None:
    result = emodistill(verb, folder, "-f", "json")
    rows = {Path(row["path"]).name: row["error"] for row in json.loads(result.out)}
    assert len(rows) == 7
    assert rows.pop("a.wav") is None
    for name, error in rows.items():
        assert error.endswith(
            f"{name}: needs the package 'av' to be decoded: pip install 'emodistill[media]'"
        )
    assert result.code == 1
    assert result.err.splitlines()[-1] == (
        "6 files skipped (.m4a 1, .mp4 1, .webm 1, .mkv 1, .3gp 1, .ts 1): pip install 'emodistill[media]'"
    )
    assert "failed:" not in result.err


@pytest.mark.usefixtures("without_av")
def test_enrol_counts_the_files_that_this_install_cannot_decode(
    emodistill: Call, folder: Path, tmp_path: Path
) -> None:
    result = emodistill("enrol", folder, "-o", tmp_path / "v.json")
    assert result.code == 1
    assert "6 files skipped" in result.err
    assert "left out of the voice" not in result.err


@pytest.mark.usefixtures("without_av")
def test_a_named_file_that_cannot_be_decoded_is_a_failure_with_the_extra(
    emodistill: Call, folder: Path
) -> None:
    result = emodistill("predict", folder / "b.m4a", "-f", "json")
    assert result.code == 1
    assert f"failed: {folder / 'b.m4a'}: needs the package 'av'" in result.err
    assert "skipped" not in result.err


def test_suffixes_are_lower_case_and_of_one_decoder() -> None:
    for suffix in (*SUFFIXES, *MEDIA_SUFFIXES):
        assert suffix == suffix.lower()
        assert suffix.startswith(".")
    assert not set(SUFFIXES) & set(MEDIA_SUFFIXES)
    for suffix in (".m4a", ".mp4", ".webm", ".aac", ".wma", ".3gp", ".mkv", ".mov", ".gsm"):
        assert suffix in MEDIA_SUFFIXES


def test_a_named_file_counts_whatever_its_suffix(folder: Path) -> None:
    found = find_audio_files([folder / "notes.txt", folder / "a.wav"])
    assert found.files == [folder / "notes.txt", folder / "a.wav"]
    assert not found.undecodable


def test_the_line_about_skipped_files_counts_by_suffix() -> None:
    paths = [f"{number}.m4a" for number in range(6)] + [f"{number}.MP4" for number in range(4)]
    assert skipped_message(paths) == ("10 files skipped (.m4a 6, .mp4 4): pip install 'emodistill[media]'")
    assert skipped_message(["a.wma"]).startswith("1 file skipped (.wma 1)")


# --- limits of length ----------------------------------------------------------------------------


def never_decode(*_: object) -> None:
    raise AssertionError("the recording was decoded")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a"])
def test_a_recording_that_is_too_long_by_its_header_is_not_decoded(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"long{suffix}"
    if suffix == ".m4a":
        write_media(path, length_s=6)
    else:
        soundfile.write(path, make.speech(6, 150), make.RATE)
    header = read_header(path)
    assert header is not None
    assert header.duration_s == pytest.approx(6, abs=0.2)
    assert not header.is_estimated
    assert len(load_bounded(path, 7)) == pytest.approx(6 * make.RATE, rel=0.03)
    monkeypatch.setattr("emodistill.audio.waveform.decode_blocks", never_decode)
    for source in (path, path.read_bytes(), path.open("rb")):
        with pytest.raises(AudioTooLongError, match=r": longer than the limit of 5 s \(6\.\d s\); cut it"):
            load_bounded(source, 5)
        with pytest.raises(AudioTooLongError):
            list(load_blocks(source, 5))
        if isinstance(source, io.BufferedReader):
            source.close()


def test_an_mp3_without_the_number_of_its_frames_is_decoded_up_to_the_limit(tmp_path: Path) -> None:
    """The decoder guesses its length from the size and may say twice the true one."""
    path = tmp_path / "stream.mp3"
    quiet_then_loud = np.concatenate([np.zeros(make.RATE * 20), make.speech(20, 150)])
    soundfile.write(path, quiet_then_loud, make.RATE, bitrate_mode="VARIABLE", compression_level=0.2)
    data = path.read_bytes()
    first_frame = data.index(data[:2], 4)
    assert b"Xing" in data[:first_frame]
    header = read_header(data[first_frame:])
    assert header is not None
    assert header.is_estimated
    assert len(load_bounded(data[first_frame:], 41)) > 39 * make.RATE
    with pytest.raises(AudioTooLongError, match="the audio: longer than the limit of 30 s; cut"):
        load_bounded(data[first_frame:], 30)


# --- what messages call a source -----------------------------------------------------------------


def test_messages_name_a_source_without_brackets(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"no audio")
    with path.open("rb") as file:
        assert name_in_messages(file) == str(path)
        with pytest.raises(AudioError, match=r"^/.*x\.bin: cannot be decoded"):
            load(file)
    with pytest.raises(AudioError, match=r"^the audio: cannot be decoded"):
        load(b"no audio")
    with pytest.raises(AudioError, match=r"^the audio: cannot be decoded"):
        load(io.BytesIO(b"no audio"))
    assert name_in_messages(sys.__stdin__) in ("standard input", "the audio")
    for folder in (Path(decoding.__file__).parents[1],):
        for source in folder.rglob("*.py"):
            text = source.read_text(encoding="utf-8")
            for word in ("<bytes>", "<stream>", "<array>"):
                assert word not in text, source


@pytest.mark.parametrize(
    "url",
    [
        "http://x.org/a.wav",
        "https://x.org/a.wav",
        "s3://bucket/a.wav",
        "file:///home/a.wav",
        "HTTPS://x.org/a",
    ],
)
def test_a_url_is_refused_with_one_sentence(emodistill: Call, url: str) -> None:
    result = emodistill("predict", url, "-f", "json")
    (row,) = json.loads(result.out)
    scheme = url.split(":")[0]
    assert row["error"].startswith(f"{scheme}://")
    assert "is a URL, expected a file on this machine; download it first" in row["error"]
    assert result.code == 1
    with pytest.raises(AudioError, match="is a URL"):
        load(url)


def test_a_missing_file_is_no_url() -> None:
    for path in ("missing.wav", "c:/missing.wav", "a/b:c/d.wav", "talk: part 1.wav"):
        with pytest.raises(AudioError, match="no such file"):
            load(path)
