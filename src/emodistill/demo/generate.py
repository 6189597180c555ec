"""Generate the demo corpus: synthetic speakers whose emotions show partly in words and partly in prosody.

    python -m emodistill.demo.generate OUT_DIR
    python -m emodistill.demo.generate OUT_DIR --call    # call.ogg, the stereo call of the README

Every utterance has one emotion. Given that emotion, words and prosody are drawn independently, and both are
noisy. The words come from another emotion's list with probability `Settings.word_noise`. Rate, pitch and
pitch range come from overlapping normal distributions, one `Style` for each emotion. So words and prosody
together tell more about the emotion than either of them. One dependence remains: a sentence that is too long
or too short at the drawn rate is replaced. Arousal, valence and dominance are ratings of prosody and words,
see `emodistill.demo.ratings`.

espeak-ng speaks the sentences. The same settings and the same espeak-ng give the same table and the same PCM.
Only the encoded files differ, because Ogg puts a random serial number into each stream.
"""

import argparse
import csv
import hashlib
import io
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from xml.sax.saxutils import escape

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from emodistill.demo.ratings import SCALE, draw_ratings, true_dimensions
from emodistill.labels import scale_text

EMOTIONS: Final = ("angry", "happy", "neutral", "sad")
COLUMNS: Final = (
    "id", "path", "start_s", "end_s", "speaker", "session", "gender", "language", "emotion", "transcript",
    "split", "arousal", "valence", "dominance", "scale",
)  # fmt: skip


@dataclass(frozen=True)
class Speaker:
    """One synthetic voice. An emotion changes rate and pitch relative to these values."""

    id: str
    voice: str  # voice and variant of espeak-ng, `-v`
    gender: str
    pitch: float  # `-p` of espeak-ng, 0 to 99
    rate: float  # factor of the words per minute


@dataclass(frozen=True)
class Style:
    """The mean prosody of one emotion."""

    rate_wpm: float  # words per minute, `-s` of espeak-ng
    pitch: float  # added to the speaker's pitch
    range_percent: float  # pitch range of SSML; 100 is the range of the voice


# British voices are "en", because espeak-ng 1.51 ignores a variant after "en-gb".
SPEAKERS: Final = (
    Speaker("f01", "en-us+f1", "female", 34.0, 1.00),
    Speaker("f02", "en+f2", "female", 40.0, 1.06),
    Speaker("f03", "en-gb-scotland+f3", "female", 48.0, 0.96),
    Speaker("f04", "en-us-nyc+f4", "female", 52.0, 1.03),
    Speaker("f05", "en-029+f5", "female", 26.0, 0.98),
    Speaker("m01", "en-us+m1", "male", 30.0, 0.97),
    Speaker("m02", "en+m2", "male", 46.0, 1.04),
    Speaker("m03", "en-gb-scotland+m3", "male", 62.0, 1.00),
    Speaker("m04", "en-gb-x-gbclan+m4", "male", 40.0, 0.95),
    Speaker("m05", "en-gb-x-rp+m7", "male", 56.0, 1.05),
)

STYLES: Final[Mapping[str, Style]] = MappingProxyType(
    {
        "angry": Style(rate_wpm=214.0, pitch=8.0, range_percent=125.0),
        "happy": Style(rate_wpm=192.0, pitch=24.0, range_percent=180.0),
        "neutral": Style(rate_wpm=172.0, pitch=0.0, range_percent=70.0),
        "sad": Style(rate_wpm=146.0, pitch=-8.0, range_percent=30.0),
    }
)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the corpus. The defaults give the corpus of the package."""

    seed: int = 20240
    speakers: tuple[Speaker, ...] = SPEAKERS
    styles: Mapping[str, Style] = field(default_factory=lambda: STYLES)
    num_per_emotion: int = 12  # utterances of each emotion by each speaker
    word_noise: float = 0.28  # probability that the words come from another emotion's list
    rate_sd_wpm: float = 11.0
    pitch_sd: float = 7.0
    range_sd_percent: float = 22.0
    rate_limits_wpm: tuple[float, float] = (130.0, 240.0)
    pitch_limits: tuple[float, float] = (2.0, 97.0)
    range_limits_percent: tuple[float, float] = (10.0, 220.0)
    amplitude_limits: tuple[float, float] = (
        50.0,
        90.0,
    )  # `-a` of espeak-ng; it does not depend on the emotion
    duration_limits_s: tuple[float, float] = (1.0, 2.5)  # outside this range another sentence is drawn
    num_attempts: int = 20  # sentences that are tried for an utterance
    sample_rate_hz: int = 16_000
    silence_db: float = -40.0  # relative to the peak; quieter samples at both ends are cut
    margin_s: float = 0.05  # silence at both ends
    opus_compression: float = 0.94  # soundfile's 0 (most bits) to 1 (fewest)


SETTINGS: Final = Settings()

NOUNS: Final = (
    *("meeting", "weather", "train", "dinner", "letter", "garden", "match", "concert", "holiday", "message"),
    *("phone call", "report", "visit", "exam", "film", "trip", "party", "kitchen", "house", "lesson"),
)
# {a} becomes "a" or "an" by the word that follows it.
STATE_TEMPLATES: Final = (
    "I am {word} about the {noun}.",
    "We were {word} about the {noun}.",
    "She sounds {word} about that {noun}.",
    "He is {word} about this {noun} again.",
    "They felt {word} about the {noun}.",
    "You seem {word} about your {noun}.",
)
THING_TEMPLATES: Final = (
    "The {noun} was {word} today.",
    "That is {a} {word} {noun}.",
    "Your {noun} was really {word}.",
    "It was {a} {word} {noun} again.",
    "This {noun} sounds {word} to me.",
    "We had {a} {word} {noun} yesterday.",
)
STATE_WORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "angry": ("angry", "furious", "annoyed", "outraged"),
        "happy": ("happy", "delighted", "thrilled", "cheerful"),
        "neutral": ("neutral", "certain", "informed", "practical"),
        "sad": ("sad", "miserable", "heartbroken", "gloomy"),
    }
)
THING_WORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "angry": ("outrageous", "infuriating", "unfair", "hateful"),
        "happy": ("wonderful", "fantastic", "lovely", "joyful"),
        "neutral": ("ordinary", "regular", "standard", "typical"),
        "sad": ("depressing", "hopeless", "tragic", "mournful"),
    }
)

README: Final = """\
# Demo corpus

{num_utterances} utterances by {num_speakers} synthetic speakers ({emotions}), with equal numbers for each
speaker and emotion. `utterances.csv` has one row for each file. Paths are relative to this folder.
Audio is Ogg Opus, 16 kHz mono.

`python -m emodistill.demo.generate OUT_DIR` makes the corpus: espeak-ng speaks sentences of a small grammar.
Given the emotion, words and prosody are drawn independently, and both are noisy. With probability
{word_noise:.2f} the words are those of another emotion. Rate, pitch and range overlap between emotions. The
transcript is always the spoken text.

`arousal`, `valence` and `dominance` run from 1 to 5. Each is the mean of four simulated raters. They rate a
known function of the drawn prosody and of the emotion of the words, with noise: `emodistill.demo.ratings`.

The voices are synthetic: no person was recorded for this corpus, and no voice imitates a person. Results
on it show that the method runs. They say nothing about human speech.

Licence: Apache-2.0, like the package. Made with {version}.
"""


@dataclass(frozen=True)
class Prosody:
    """The prosody of one utterance, in the integers that the options of espeak-ng take."""

    rate_wpm: int
    pitch: int
    range_percent: int
    amplitude: int


@dataclass(frozen=True)
class Utterance:
    """One utterance of the corpus, before it is spoken."""

    id: str
    speaker: Speaker
    emotion: str
    word_emotion: str  # the emotion of its words; another one with probability `word_noise`
    prosody: Prosody

    @property
    def path(self) -> str:
        """The path of its audio, relative to the table."""
        return f"audio/{self.speaker.id}/{self.id}.ogg"

    def true_dimensions(self) -> dict[str, float]:
        """Return arousal, valence and dominance of its prosody and words, on the scale of the ratings."""
        prosody = self.prosody
        rate_wpm, pitch_shift = prosody.rate_wpm / self.speaker.rate, prosody.pitch - self.speaker.pitch
        return true_dimensions(rate_wpm, pitch_shift, prosody.range_percent, self.word_emotion)


def draw_word_emotion(rng: random.Random, emotion: str, noise: float) -> str:
    """Return the emotion, or with probability `noise` one of the others, all equally likely."""
    if rng.random() >= noise:
        return emotion
    return rng.choice([other for other in EMOTIONS if other != emotion])


def draw_sentence(rng: random.Random, emotion: str) -> str:
    """Return a sentence with one word of that emotion. Its template and noun do not depend on the emotion."""
    if rng.random() < 0.5:
        template, word = rng.choice(STATE_TEMPLATES), rng.choice(STATE_WORDS[emotion])
    else:
        template, word = rng.choice(THING_TEMPLATES), rng.choice(THING_WORDS[emotion])
    article = "an" if word[0] in "aeiou" else "a"
    return template.format(a=article, word=word, noun=rng.choice(NOUNS))


def draw_prosody(rng: random.Random, speaker: Speaker, style: Style, settings: Settings) -> Prosody:
    """Draw rate, pitch and range around the means of a style, clipped to the limits, and any loudness."""

    def draw(mean: float, sd: float, limits: tuple[float, float]) -> int:
        return round(min(max(rng.gauss(mean, sd), limits[0]), limits[1]))

    return Prosody(
        rate_wpm=draw(style.rate_wpm * speaker.rate, settings.rate_sd_wpm, settings.rate_limits_wpm),
        pitch=draw(speaker.pitch + style.pitch, settings.pitch_sd, settings.pitch_limits),
        range_percent=draw(style.range_percent, settings.range_sd_percent, settings.range_limits_percent),
        amplitude=round(rng.uniform(*settings.amplitude_limits)),
    )


def plan(settings: Settings = SETTINGS) -> list[Utterance]:
    """Return all utterances of the corpus, before they are spoken. Ids do not contain the emotion."""
    utterances = []
    for speaker in settings.speakers:
        emotions = list(EMOTIONS) * settings.num_per_emotion
        random.Random(f"{settings.seed}/{speaker.id}").shuffle(emotions)
        for number, emotion in enumerate(emotions, start=1):
            utterance_id = f"{speaker.id}_{number:03d}"
            # Separate generators, so that a change to words does not change prosody, and the reverse.
            words = random.Random(f"{settings.seed}/{utterance_id}/words")
            prosody = random.Random(f"{settings.seed}/{utterance_id}/prosody")
            utterances.append(
                Utterance(
                    id=utterance_id,
                    speaker=speaker,
                    emotion=emotion,
                    word_emotion=draw_word_emotion(words, emotion, settings.word_noise),
                    prosody=draw_prosody(prosody, speaker, settings.styles[emotion], settings),
                )
            )
    return utterances


def find_espeak() -> str:
    """Return the path of the espeak-ng program.

    Raises `FileNotFoundError`, whose message says how to install it.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError(
            "espeak-ng is not installed: `apt-get install espeak-ng` (Debian, Ubuntu), "
            "`brew install espeak-ng` (macOS), or https://github.com/espeak-ng/espeak-ng"
        )
    return program


def speak(program: str, text: str, voice: str, prosody: Prosody, settings: Settings) -> NDArray[np.int16]:
    """Speak a text. Return PCM (samples,), int16, at `settings.sample_rate_hz`, with silence cut at both
    ends.

    Raises `RuntimeError` where espeak-ng fails, gives silence, or is so loud that the PCM clips.
    """
    ssml = f'<speak><prosody range="{prosody.range_percent}%">{escape(text)}</prosody></speak>'
    command = [program, "-m", "-v", voice, "-s", str(prosody.rate_wpm), "-p", str(prosody.pitch)]
    command += ["-a", str(prosody.amplitude), "--stdout", ssml]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(f"espeak-ng failed on {text!r}, voice {voice!r}: {done.stderr.decode().strip()}")
    spoken, rate_hz = soundfile.read(io.BytesIO(done.stdout), dtype="float64")
    waveform = np.asarray(soxr.resample(spoken, rate_hz, settings.sample_rate_hz), dtype=np.float64)
    level = np.abs(waveform)
    peak = float(level.max(initial=0.0))
    if not 0.0 < peak < 0.99:
        raise RuntimeError(f"bad peak {peak:.2f} of {text!r}, voice {voice!r}, expected above 0, below 0.99")
    (loud,) = np.nonzero(level > peak * 10.0 ** (settings.silence_db / 20.0))
    margin = np.zeros(round(settings.margin_s * settings.sample_rate_hz))
    cut = np.concatenate([margin, waveform[loud[0] : loud[-1] + 1], margin])
    return np.round(cut * 32767.0).astype(np.int16)


def render(program: str, utterance: Utterance, settings: Settings) -> tuple[str, NDArray[np.int16]]:
    """Return the transcript and the PCM (samples,), int16, of an utterance.

    A sentence that is too short or too long is replaced by another with the same emotion of the words and the
    same prosody. Raises `RuntimeError` where no attempt fits.
    """
    rng = random.Random(f"{settings.seed}/{utterance.id}/sentence")
    shortest_s, longest_s = settings.duration_limits_s
    for _ in range(settings.num_attempts):
        text = draw_sentence(rng, utterance.word_emotion)
        pcm = speak(program, text, utterance.speaker.voice, utterance.prosody, settings)
        if shortest_s <= len(pcm) / settings.sample_rate_hz <= longest_s:
            return text, pcm
    raise RuntimeError(
        f"no sentence of {utterance.id!r} lasts {shortest_s} to {longest_s} s at "
        f"{utterance.prosody.rate_wpm} words per minute: change rate_limits_wpm or duration_limits_s"
    )


def write_table(path: Path, utterances: Sequence[Utterance], transcripts: Sequence[str], seed: int) -> None:
    """Write utterances.csv, with ratings drawn from `seed`; start_s, end_s, session and split are empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for utterance, transcript in zip(utterances, transcripts, strict=True):
            row = {"id": utterance.id, "path": utterance.path, "speaker": utterance.speaker.id}
            row |= {"gender": utterance.speaker.gender, "language": "en"}
            row |= {"emotion": utterance.emotion, "transcript": transcript, "scale": scale_text(SCALE)}
            rng = random.Random(f"{seed}/{utterance.id}/ratings")
            writer.writerow({**row, **draw_ratings(rng, utterance.true_dimensions())})


def generate(out_dir: Path, settings: Settings = SETTINGS) -> str:
    """Write the corpus into `out_dir`: utterances.csv, README.md and audio/<speaker>/<id>.ogg.

    Returns the SHA-256 of all PCM before encoding, in the order of the table. Raises `FileNotFoundError`
    without espeak-ng, and `RuntimeError` where espeak-ng cannot speak a sentence.
    """
    program = find_espeak()
    utterances = plan(settings)
    digest = hashlib.sha256()
    transcripts = []
    for utterance in utterances:
        transcript, pcm = render(program, utterance, settings)
        transcripts.append(transcript)
        digest.update(pcm.astype("<i2").tobytes())
        path = out_dir / utterance.path
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(
            path,
            pcm,
            settings.sample_rate_hz,
            format="OGG",
            subtype="OPUS",
            compression_level=settings.opus_compression,
        )
    write_table(out_dir / "utterances.csv", utterances, transcripts, settings.seed)
    version = subprocess.run([program, "--version"], capture_output=True, check=True, text=True).stdout
    readme = README.format(
        num_utterances=len(utterances),
        num_speakers=len(settings.speakers),
        emotions=", ".join(EMOTIONS),
        word_noise=settings.word_noise,
        version=version.split("  Data at")[0].strip(),
    )
    (out_dir / "README.md").write_text(readme, encoding="utf-8")
    return digest.hexdigest()


# A call between two speakers: channel, emotion of the prosody, and text of each turn.
CALL_SPEAKERS: Final = ("f02", "m03")  # left channel: the agent; right channel: the customer
CALL_TURNS: Final = (
    (0, "neutral", "Service desk, good morning. How can I help?"),
    (1, "neutral", "Hello. I am calling about my order."),
    (0, "neutral", "It leaves on Monday."),
    (1, "angry", "That is outrageous! You said that last week!"),
    (0, "sad", "I am sorry. It was a terrible week."),
    (0, "happy", "But good news! I can send it today, for free!"),
    (1, "happy", "Oh, that is wonderful! Thank you!"),
)
CALL_PAUSE_S: Final = 0.4  # between two turns
CALL_LENGTH_S: Final = 20.0


def generate_call(path: Path, settings: Settings = SETTINGS) -> str:
    """Write a synthetic call of 20 s as stereo Ogg Opus at 16 kHz, with one speaker on each channel.

    Returns the SHA-256 of its PCM before encoding. Raises `FileNotFoundError` without espeak-ng, and
    `RuntimeError` where the turns do not fit into 20 s.
    """
    program = find_espeak()
    speakers = {speaker.id: speaker for speaker in settings.speakers}
    rate_hz = settings.sample_rate_hz
    pcm = np.zeros((round(CALL_LENGTH_S * rate_hz), 2), dtype=np.int16)
    begin = round(CALL_PAUSE_S * rate_hz)
    for number, (channel, emotion, text) in enumerate(CALL_TURNS):
        speaker = speakers[CALL_SPEAKERS[channel]]
        rng = random.Random(f"{settings.seed}/call/{number}")
        prosody = draw_prosody(rng, speaker, settings.styles[emotion], settings)
        turn = speak(program, text, speaker.voice, prosody, settings)
        if begin + len(turn) > len(pcm):
            raise RuntimeError(
                f"turn {number + 1} of the call ends after {CALL_LENGTH_S:g} s: shorten its text"
            )
        pcm[begin : begin + len(turn), channel] = turn
        begin += len(turn) + round(CALL_PAUSE_S * rate_hz)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, pcm, rate_hz, format="OGG", subtype="OPUS", compression_level=settings.opus_compression
    )
    return hashlib.sha256(pcm.astype("<i2").tobytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: generate the corpus or the call into a folder, from a seed."""
    parser = argparse.ArgumentParser(
        prog="python -m emodistill.demo.generate", description="Generate the demo corpus."
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder to write into")
    parser.add_argument(
        "--seed",
        type=int,
        default=SETTINGS.seed,
        help="seed of all draws; %(default)s gives the packaged corpus",
    )
    parser.add_argument(
        "--call", action="store_true", help="write only call.ogg, a stereo call of 20 s between two speakers"
    )
    options = parser.parse_args(arguments)
    settings = Settings(seed=options.seed)
    name = "call.ogg" if options.call else "utterances.csv"
    try:
        digest = (
            generate_call(options.out_dir / name, settings)
            if options.call
            else generate(options.out_dir, settings)
        )
    except (FileNotFoundError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.out_dir / name}: PCM sha256 {digest}")


if __name__ == "__main__":
    main()
