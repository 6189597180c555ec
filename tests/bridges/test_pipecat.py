"""The emotions of Pipecat's frames are those of a stream of the same samples."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import soundfile
from pipecat.frames.frames import (
    CancelFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    TextFrame,
    UserAudioRawFrame,
)
from pipecat.tests.utils import SleepFrame, run_test

from emodistill import ConfigError, Recognizer
from emodistill.integrations.pipecat import EmotionFrame, EmotionProcessor

CALL = Path(__file__).parents[2] / "src" / "emodistill" / "demo" / "call.ogg"
CHUNK_S = 0.02
SAMPLES, RATE_HZ = soundfile.read(CALL, dtype="int16", always_2d=True)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(threads=1)


def audio_frames(
    samples: Any = SAMPLES, rate_hz: int = RATE_HZ, kind: Any = None, **more: Any
) -> list[Frame]:
    """The samples (n, channels) in frames of 20 ms."""
    step = int(CHUNK_S * rate_hz)
    return [
        (kind or InputAudioRawFrame)(
            audio=samples[start : start + step].tobytes(),
            sample_rate=rate_hz,
            num_channels=samples.shape[1],
            **more,
        )
        for start in range(0, len(samples), step)
    ]


def events_of(recognizer: Recognizer, samples: Any = SAMPLES, rate_hz: int = RATE_HZ) -> list[dict[str, Any]]:
    """The events of a stream of the same samples."""
    stream = recognizer.stream(rate_hz)
    events = [*stream.push(samples), *stream.finish()]
    return [{"kind": event.kind, **event.as_dict()} for event in events]


def sent_through(processor: EmotionProcessor, frames: list[Frame], **more: Any) -> list[Frame]:
    down, _ = asyncio.run(run_test(processor, frames_to_send=frames, start_timeout=60, **more))
    return list(down)


def emotions_in(frames: list[Frame]) -> list[dict[str, Any]]:
    return [{"kind": frame.kind, **frame.event} for frame in frames if isinstance(frame, EmotionFrame)]


def test_the_events_are_those_of_a_stream(recognizer: Recognizer) -> None:
    frames = audio_frames()
    down = sent_through(EmotionProcessor(recognizer), frames)
    expected = events_of(recognizer)
    assert {event["kind"] for event in expected} == {"speech_started", "update", "segment", "speech_ended"}
    assert emotions_in(down) == expected
    passed = [frame for frame in down if isinstance(frame, InputAudioRawFrame)]
    assert all(one is other for one, other in zip(passed, frames, strict=True))  # the same ones, in order


def test_any_rate_and_channels(recognizer: Recognizer) -> None:
    mono = SAMPLES[:: RATE_HZ // 8000, :1] if RATE_HZ % 8000 == 0 else SAMPLES[::2, :1]
    rate_hz = 8000 if RATE_HZ % 8000 == 0 else RATE_HZ // 2
    down = sent_through(EmotionProcessor(recognizer, updates=False), audio_frames(mono, rate_hz))
    assert emotions_in(down) == [
        event for event in events_of(recognizer, mono, rate_hz) if event["kind"] != "update"
    ]


def test_a_change_of_the_format_continues_the_times(recognizer: Recognizer) -> None:
    half = len(SAMPLES) // 2
    down = sent_through(
        EmotionProcessor(recognizer),
        [*audio_frames(SAMPLES[:half]), *audio_frames(SAMPLES[half:, :1].copy())],
    )
    first = events_of(recognizer, SAMPLES[:half])
    second = events_of(recognizer, SAMPLES[half:, :1])
    found = emotions_in(down)
    assert found[: len(first)] == first
    assert len(found) == len(first) + len(second)
    times = [event["start_s"] - other["start_s"] for event, other in
             zip(found[len(first) :], second, strict=True) if event["kind"] == "segment"]  # fmt: skip
    assert times == pytest.approx([half / RATE_HZ] * len(times), abs=0.01)


def test_users_have_streams_of_their_own(recognizer: Recognizer) -> None:
    left = audio_frames(SAMPLES[:, :1].copy(), kind=UserAudioRawFrame, user_id="left")
    right = audio_frames(SAMPLES[:, 1:].copy(), kind=UserAudioRawFrame, user_id="right")
    mixed = [frame for pair in zip(left, right, strict=True) for frame in pair]
    down = sent_through(EmotionProcessor(recognizer), mixed)
    for channel, name in enumerate(("left", "right")):
        own = [frame for frame in down if isinstance(frame, EmotionFrame) and frame.user_id == name]
        assert emotions_in(own) == events_of(recognizer, SAMPLES[:, channel : channel + 1])


def test_an_interruption_loses_nothing_and_other_frames_pass(recognizer: Recognizer) -> None:
    frames = audio_frames()
    bot = OutputAudioRawFrame(audio=SAMPLES.tobytes(), sample_rate=RATE_HZ, num_channels=2)
    text = TextFrame("hello")
    sent = [*frames[:400], SleepFrame(0.5), InterruptionFrame(), *frames[400:], bot, text]
    down = sent_through(EmotionProcessor(recognizer), sent)
    assert emotions_in(down) == events_of(recognizer)
    assert bot in down
    assert text in down


def test_after_a_cancel_nothing_comes(recognizer: Recognizer) -> None:
    sent = [*audio_frames()[:300], CancelFrame()]
    processor = EmotionProcessor(recognizer)
    down = sent_through(processor, sent, send_end_frame=False)
    assert len(emotions_in(down)) < len(events_of(recognizer))
    assert processor._worker is None
    assert not processor._users


def test_the_event_loop_stays_free(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()
    classify = recognizer.student.run

    def watched(*arguments: Any) -> Any:
        threads.add(threading.get_ident())
        return classify(*arguments)

    monkeypatch.setattr(recognizer.student, "run", watched)
    sent_through(EmotionProcessor(recognizer), audio_frames(SAMPLES[: 4 * RATE_HZ]))
    assert threads
    assert threading.get_ident() not in threads


def test_a_recogniser_that_fails_does_not_stop_the_pipeline(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(recognizer.student, "run", broken)
    frames = audio_frames(SAMPLES[: 4 * RATE_HZ])
    processor = EmotionProcessor(recognizer)
    down, up = asyncio.run(run_test(processor, frames_to_send=frames, start_timeout=60))
    assert [frame for frame in down if isinstance(frame, InputAudioRawFrame)] == frames
    errors = [frame.error for frame in up if isinstance(frame, ErrorFrame)]
    assert any("no memory" in error for error in errors)


def test_bad_options_are_refused_at_once(recognizer: Recognizer) -> None:
    with pytest.raises(ConfigError, match="smooth"):
        EmotionProcessor(recognizer, stream={"smooth_s": 100})
