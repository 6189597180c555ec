"""Measures timelines of conversations that are made of utterances: what the voice of a recording is worth,
and how well segments follow phases of one emotion.

    python benchmarks/conversations.py MODEL --run RUN [--fold NAME] [--split dev]
    python benchmarks/conversations.py MODEL --manifest utterances.csv … [--speakers 4,10]
    python benchmarks/conversations.py MODEL --phases --manifest utterances.csv … [--cache FOLDER]
    python benchmarks/conversations.py MODEL --surety --labels seven --manifest utterances.csv …

MODEL is the folder of an exported model with voices. The conversations are made of utterances of one
split of RUN, a run folder (default: the dev split of its first fold), or of manifests. A conversation has
speakers of one corpus, pauses, and the noise of a quiet room. The same seed gives the same conversations.

Without --phases there are four kinds: one speaker, or two who take turns; emotions drawn at random for
each turn, or one emotion that fills over 80 % of the speech. This main emotion is another one in each
conversation. The answer for a turn is the emotion that the segments of the timeline have for most of it.
A turn without an answer counts as wrong. Scores are UA over all turns of a kind. The differences from
`none` are paired. "given" means that the turns and their speakers are given, so each speaker has a voice
of their own.

With --phases, a conversation has four phases of 20 to 60 s, and each phase has one emotion. A third of
the conversations have one emotion only. Turns last 2 to 15 s. They are made of utterances with short
pauses between them. "right" is the share of the found speech within utterances whose segment has the
right emotion. "switches" are changes of emotion from one segment to the next, for each minute of
recording. The first row of each group is the baseline: no voice and no smoothing. --cache keeps what the
model gives for each window, so that other constants can be tried in seconds.

With --surety, the conversations are those of --phases, and the table has how often the segments of each
surety are right. A segment is right if most of the speech in it has its emotion. "of time" counts seconds
of speech in place of segments. With `--labels seven` the recogniser considers all emotions of the model.

Intervals are 95 % intervals by bootstrap over conversations.
"""

import argparse
import hashlib
import io
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import soundfile

from emodistill import Recognizer
from emodistill.audio.speech_activity import SpeechDetector, SpeechStream
from emodistill.audio.waveform import SAMPLE_RATE, Waveform, load, remove_offset, trim_silence
from emodistill.corpora import Utterance, read_manifest
from emodistill.evaluation.bootstrap import draw_speakers, percentile_interval
from emodistill.inference.adapted_windows import ADAPT
from emodistill.inference.exported_student import Outputs
from emodistill.inference.given_segments import GivenSegment
from emodistill.inference.prediction import Surety
from emodistill.inference.segmentation import Segment
from emodistill.inference.segmentation_options import SMOOTH_S
from emodistill.inference.window_classifier import WindowOutput
from emodistill.labels import get_label_map
from emodistill.protocol import read_protocol

MAIN_SHARE = 0.8  # the main emotion fills more of the speech than this
NUM_OTHER_TURNS = 0.15  # share of the turns that begin with another emotion; some of them may be replaced
PAUSE_S = (0.4, 1.2)  # between turns
NUM_PHASES = 4  # of a conversation in phases; each has one emotion
PHASE_S = (20.0, 60.0)
TURN_S = (2.0, 15.0)  # in phases; a turn holds one utterance at least
SHORT_PAUSE_S = (0.1, 0.5)  # between the utterances of a turn
ROOM_RMS = 10 ** (-60 / 20)
TRIM_DB = 40.0
RESAMPLES = 2000
KINDS = {  # name -> speakers, whether one emotion fills most of the speech
    "one speaker, mixed": (1, False),
    "two speakers, mixed": (2, False),
    "one speaker, one emotion over 80 %": (1, True),
    "two speakers, one emotion over 80 %": (2, True),
}

PHASES = {  # name -> speakers, emotions, share of --conversations
    "one speaker, phases": (1, 4, 1.0),
    "two speakers, phases": (2, 4, 1.0),
    "one speaker, one emotion": (1, 1, 0.5),
    "two speakers, one emotion": (2, 1, 0.5),
}

Pool = dict[str, dict[str, list[Utterance]]]  # speaker -> emotion -> utterances
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Conversation:
    """A waveform (samples,) at 16 kHz, its turns, their true emotions, and the spans of their utterances."""

    waveform: Waveform
    turns: tuple[GivenSegment, ...]
    emotions: tuple[str, ...]
    speech: tuple[tuple[float, float, str], ...]  # start and end in seconds, true emotion

    @property
    def minutes(self) -> float:
        """The length of the recording."""
        return len(self.waveform) / SAMPLE_RATE / 60


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of an exported model with voices")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="run folder; its utterances.csv names the audio")
    source.add_argument(
        "--manifest",
        type=Path,
        nargs="+",
        help="manifests of `emodistill corpus prepare`, one for each corpus",
    )
    parser.add_argument("--fold", help="with --run: the fold; default: the first")
    parser.add_argument("--split", default="dev", choices=["train", "dev", "test"], help="with --run")
    parser.add_argument("--speakers", help="with --manifest: speakers, e.g. 4,10; default: all")
    parser.add_argument("--labels", default="four", help="label map, or a list such as angry,sad")
    parser.add_argument("--phases", action="store_true", help="conversations in phases of one emotion")
    parser.add_argument("--surety", action="store_true", help="how often segments of each surety are right")
    parser.add_argument("--smooth", default=f"{SMOOTH_S:g}", help="with --phases: values of smooth_s to try")
    parser.add_argument("--cache", type=Path, help="with --phases: folder for what the model gives")
    parser.add_argument("--conversations", type=int, default=40, help="number of each kind")
    parser.add_argument("--turns", type=int, default=20, help="number of turns of a conversation")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    pools = group_by_corpus(choose_utterances(given), given.labels)
    emotions = sorted({name for pool in pools.values() for parts in pool.values() for name in parts})
    if given.surety:
        measure_surety(pools, emotions if given.labels == "four" else None, given)
        return
    if given.phases:
        measure_phases(pools, emotions, given)
        return
    recognizer = Recognizer(given.model, emotions=emotions, threads=1)
    print(f"{given.conversations} conversations of each kind with {given.turns} turns; {', '.join(emotions)}")
    print("| conversations | turns | adapt | UA | difference from none |\n| --- | --- | --- | --- | --- |")
    for kind, (num_speakers, has_main) in KINDS.items():
        rng = np.random.default_rng(given.seed)
        conversations = [
            converse(pools, number, num_speakers, emotions if has_main else None, given.turns, rng)
            for number in range(given.conversations)
        ]
        for is_given in (False, True):
            compare(recognizer, conversations, kind, is_given, emotions)


def choose_utterances(given: argparse.Namespace) -> list[Utterance]:
    """Return the utterances of the split or the manifest that the options name."""
    if given.manifest is not None:
        speakers = given.speakers and given.speakers.split(",")
        return [
            replace(item, corpus=path.parent.name if item.corpus in (None, path.stem) else item.corpus)
            for path in given.manifest
            for item in read_manifest(path)
            if not speakers or item.speaker in speakers
        ]
    protocol = read_protocol(given.run / "protocol.json")
    fold = protocol.folds[0] if given.fold is None else protocol.fold(given.fold)
    ids = set(fold.split(given.split))
    return [item for item in read_manifest(given.run / "utterances.csv") if item.id in ids]


def group_by_corpus(utterances: Sequence[Utterance], labels: str) -> dict[str, Pool]:
    """Return the utterances with audio by corpus, speaker and emotion, with the emotions of a label map.

    Speakers with fewer than two emotions are left out.
    """
    label_map = get_label_map(labels)
    pools: dict[str, Pool] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for item in utterances:
        emotion = label_map.apply(item.emotion)
        if emotion is not None and item.path is not None:
            pools[item.corpus or ""][item.speaker][emotion].append(item)
    chosen = {
        corpus: {speaker: dict(parts) for speaker, parts in pool.items() if len(parts) > 1}
        for corpus, pool in pools.items()
    }
    pools = {corpus: pool for corpus, pool in sorted(chosen.items()) if len(pool) > 1}
    if not pools:
        raise SystemExit("expected two speakers of one corpus with two emotions each, found none")
    return pools


def converse(
    pools: dict[str, Pool],
    number: int,
    num_speakers: int,
    main_emotions: Sequence[str] | None,
    num_turns: int,
    rng: np.random.Generator,
) -> Conversation:
    """Return a conversation; corpora and main emotions are taken in turn by its number.

    With `main_emotions`, one of them fills over `MAIN_SHARE` of the speech.
    """
    corpora = sorted(pools)
    pool = pools[corpora[number % len(corpora)]]
    main = None if main_emotions is None else main_emotions[number // len(corpora) % len(main_emotions)]
    candidates = [name for name in sorted(pool) if main is None or main in pool[name]]
    if len(candidates) < num_speakers:  # this corpus lacks the main emotion
        return converse(pools, number + 1, num_speakers, main_emotions, num_turns, rng)
    speakers = [candidates[place] for place in rng.permutation(len(candidates))[:num_speakers]]
    deck = Deck(pool, rng)
    turn_speakers = [speakers[place % num_speakers] for place in range(num_turns)]
    if main is None:
        emotions = [str(rng.choice(sorted(pool[speaker]))) for speaker in turn_speakers]
    else:
        emotions = [main] * num_turns
        for place in rng.permutation(num_turns)[: round(NUM_OTHER_TURNS * num_turns)]:
            others = [name for name in sorted(pool[turn_speakers[place]]) if name != main]
            emotions[place] = str(rng.choice(others))
    sounds = [deck.draw(speaker, name) for speaker, name in zip(turn_speakers, emotions, strict=True)]
    while main is not None and main_share(sounds, emotions, main) <= MAIN_SHARE:
        place = next(place for place, name in enumerate(emotions) if name != main)
        emotions[place], sounds[place] = main, deck.draw(turn_speakers[place], main)
    return join_turns([[sound] for sound in sounds], turn_speakers, emotions, rng)


class Deck:
    """Utterances of speakers in random order; each is drawn again only when all of its kind are used."""

    def __init__(self, pool: Pool, rng: np.random.Generator) -> None:
        self._pool, self._rng = pool, rng
        self._left: dict[tuple[str, str], list[Utterance]] = {}

    def draw(self, speaker: str, emotion: str) -> Waveform:
        """Return an utterance (samples,) without the silence around it."""
        left = self._left.setdefault((speaker, emotion), [])
        if not left:
            utterances = self._pool[speaker][emotion]
            left += [utterances[place] for place in self._rng.permutation(len(utterances))]
        item = left.pop()
        assert item.path is not None
        return trim_silence(remove_offset(load(item.path, item.start_s, item.end_s)), TRIM_DB)


def main_share(sounds: Sequence[Waveform], emotions: Sequence[str], main: str) -> float:
    """Return the share of the speech that has the main emotion."""
    lengths = np.array([len(sound) for sound in sounds])
    return float(lengths[[name == main for name in emotions]].sum() / lengths.sum())


def converse_in_phases(
    pools: dict[str, Pool], number: int, num_speakers: int, num_emotions: int, rng: np.random.Generator
) -> Conversation:
    """Return a conversation of `NUM_PHASES` phases, with one emotion for each phase, or one for all."""
    corpora = sorted(pools)
    pool = pools[corpora[number % len(corpora)]]
    names = sorted(pool)
    speakers = [names[place] for place in rng.permutation(len(names))[:num_speakers]]
    shared = sorted(set.intersection(*(set(pool[speaker]) for speaker in speakers)))
    if len(shared) < 2:
        return converse_in_phases(pools, number, num_speakers, num_emotions, rng)
    deck = Deck(pool, rng)
    sounds: list[list[Waveform]] = []
    turn_speakers: list[str] = []
    emotions: list[str] = []
    emotion = ""
    for _ in range(NUM_PHASES):
        if num_emotions > 1 or not emotion:
            emotion = str(rng.choice([name for name in shared if name != emotion]))
        left_s = rng.uniform(*PHASE_S)
        while left_s > 0:
            speaker = speakers[len(sounds) % num_speakers]
            sounds.append(speak(deck, speaker, emotion, rng))
            turn_speakers.append(speaker)
            emotions.append(emotion)
            left_s -= sum(len(sound) for sound in sounds[-1]) / SAMPLE_RATE + sum(PAUSE_S) / 2
    return join_turns(sounds, turn_speakers, emotions, rng)


def speak(deck: Deck, speaker: str, emotion: str, rng: np.random.Generator) -> list[Waveform]:
    """Return the utterances of a turn; together they are about as long as a length drawn from `TURN_S`."""
    wanted_s = rng.uniform(*TURN_S)
    sounds = [deck.draw(speaker, emotion)]
    while (length_s := sum(map(len, sounds)) / SAMPLE_RATE) < wanted_s:
        following = deck.draw(speaker, emotion)
        if length_s + len(following) / SAMPLE_RATE > TURN_S[1]:
            break
        sounds.append(following)
    return sounds


def join_turns(
    turns: Sequence[Sequence[Waveform]],
    speakers: Sequence[str],
    emotions: Sequence[str],
    rng: np.random.Generator,
) -> Conversation:
    """Return the conversation of turns, each a list of utterances (samples,), with pauses between them."""
    parts: list[Waveform] = []
    given: list[GivenSegment] = []
    speech: list[tuple[float, float, str]] = []
    num_samples = 0
    for sounds, speaker, emotion in zip(turns, speakers, emotions, strict=True):
        for place, sound in enumerate(sounds):
            pause_s = rng.uniform(*(SHORT_PAUSE_S if place else PAUSE_S))
            pause = np.zeros(round(pause_s * SAMPLE_RATE), dtype=np.float32)
            start, num_samples = num_samples + len(pause), num_samples + len(pause) + len(sound)
            parts += [pause, sound]
            speech.append((start / SAMPLE_RATE, num_samples / SAMPLE_RATE, emotion))
        given.append(GivenSegment(speech[-len(sounds)][0], num_samples / SAMPLE_RATE, speaker))
    waveform = np.concatenate(parts)
    waveform = 0.7 * waveform / np.abs(waveform).max() + ROOM_RMS * rng.standard_normal(num_samples)
    return Conversation(waveform.astype(np.float32), tuple(given), tuple(emotions), tuple(speech))


def compare(
    recognizer: Recognizer,
    conversations: Sequence[Conversation],
    kind: str,
    is_given: bool,
    emotions: Sequence[str],
) -> None:
    """Print the rows of one kind of conversations, with turns that are found or given."""
    none: npt.NDArray[np.float64] | None = None  # UA without adaptation: of all, then of each draw
    for adapt in ADAPT:
        if is_given and adapt == "auto":  # only for speech that is found
            continue
        right = np.zeros((len(conversations), len(emotions)), dtype=np.int64)
        total = np.zeros_like(right)
        for row, conversation in enumerate(conversations):
            turns = conversation.turns if is_given else None
            found = recognizer.timeline(wav_bytes(conversation.waveform), given=turns, adapt=adapt)
            for turn, truth in zip(conversation.turns, conversation.emotions, strict=True):
                column = emotions.index(truth)
                total[row, column] += 1
                right[row, column] += answer(found.segments, turn) == truth
        values = accuracies(right, total)
        none = values if none is None else none
        cells = [kind, "given" if is_given else "found", adapt, with_interval(values)]
        cells.append("" if none is values else with_interval(values - none))
        print(f"| {' | '.join(cells)} |", flush=True)


@dataclass(frozen=True)
class Score:
    """How a timeline follows a conversation in phases."""

    right_s: float  # of the found speech within utterances
    found_s: float
    spoken_s: float  # of all utterances
    switches: int
    true_switches: int
    minutes: float


def measure_phases(pools: dict[str, Pool], emotions: Sequence[str], given: argparse.Namespace) -> None:
    """Print the table of conversations in phases."""
    scores: dict[str, dict[str, dict[str, list[Score]]]]  # corpus -> setting -> kind -> scores
    scores = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for corpus, kind, setting, conversation, segments in timelines_in_phases(pools, emotions, given):
        scores[corpus][setting][kind].append(score_phases(segments, conversation))
    print("| corpus | conversations | setting | right, % | difference | switches a minute | true |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for corpus in [*scores, *(["mean"] if len(scores) > 1 else [])]:
        chosen = list(scores.values()) if corpus == "mean" else [scores[corpus]]
        for group, part in (("all", ""), ("phases", "phases"), ("one emotion", "one emotion")):
            print_group(corpus, group, [
                {name: [one for kind, list_ in kinds.items() if part in kind for one in list_]
                 for name, kinds in rows.items()}
                for rows in chosen
            ])  # fmt: skip


def timelines_in_phases(
    pools: dict[str, Pool], emotions: Sequence[str] | None, given: argparse.Namespace
) -> Iterator[tuple[str, str, str, Conversation, Sequence[Segment]]]:
    """Yield corpus, kind, setting, conversation and segments of each timeline of conversations in phases."""
    for corpus, pool in pools.items():
        for number, (kind, (num_speakers, num_emotions, share)) in enumerate(PHASES.items()):
            for place in range(round(share * given.conversations)):
                rng = np.random.default_rng([given.seed, number, place])
                conversation = converse_in_phases({corpus: pool}, place, num_speakers, num_emotions, rng)
                name = f"{corpus}-{given.labels}-{given.seed}-{number}-{place}.pickle"
                cache = given.cache and given.cache / name
                with cached_model(given.model, emotions, cache) as (recognizer, detector):
                    for setting, options in settings_of(given.smooth, conversation):
                        found = recognizer.timeline(
                            wav_bytes(conversation.waveform), detector=detector, **options
                        )
                        yield corpus, kind, setting, conversation, found.segments


@dataclass(frozen=True)
class SuretyCount:
    """The segments of one surety in one conversation."""

    num_right: int
    num_segments: int
    right_s: float  # of the speech in the segments
    speech_s: float


def measure_surety(pools: dict[str, Pool], emotions: Sequence[str] | None, given: argparse.Namespace) -> None:
    """Print how often the segments of each surety are right."""
    counts: dict[tuple[str, str], list[dict[str, SuretyCount]]]  # corpus, setting -> conversations
    counts = defaultdict(list)
    for corpus, _, setting, conversation, segments in timelines_in_phases(pools, emotions, given):
        counts[corpus, setting].append(count_surety(segments, conversation))
    print("| corpus | setting | surety | segments | share of time, % | right, % | right of time, % |")
    print("| --- | --- | --- | ---: | ---: | --- | --- |")
    for (corpus, setting), conversations in counts.items():
        total_s = sum(one.speech_s for each in conversations for one in each.values())
        for name in get_args(Surety):
            ones = [each[name] for each in conversations if name in each]
            if not ones:
                continue
            share = sum(one.speech_s for one in ones) / total_s
            cells = [corpus, setting, name, str(sum(one.num_segments for one in ones)), f"{100 * share:.0f}"]
            cells.append(with_interval(ratio(ones, lambda one: one.num_right, lambda one: one.num_segments)))
            cells.append(with_interval(ratio(ones, lambda one: one.right_s, lambda one: one.speech_s)))
            print(f"| {' | '.join(cells)} |", flush=True)


def count_surety(segments: Sequence[Segment], conversation: Conversation) -> dict[str, SuretyCount]:
    """Return the counts of each surety, of the segments that have speech of the conversation in them."""
    counts: dict[str, SuretyCount] = {}
    for segment in segments:
        spoken_s: dict[str, float] = defaultdict(float)  # emotion -> seconds in the segment
        for start_s, end_s, truth in conversation.speech:
            spoken_s[truth] += max(0.0, min(segment.end_s, end_s) - max(segment.start_s, start_s))
        if segment.surety is None or segment.emotion is None or not sum(spoken_s.values()):
            continue
        before = counts.get(segment.surety, SuretyCount(0, 0, 0.0, 0.0))
        counts[segment.surety] = SuretyCount(
            before.num_right + (max(spoken_s, key=spoken_s.__getitem__) == segment.emotion),
            before.num_segments + 1,
            before.right_s + spoken_s.get(segment.emotion, 0.0),
            before.speech_s + sum(spoken_s.values()),
        )
    return counts


def settings_of(smooth: str, conversation: Conversation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names and the options of the timelines to compare; the first one is the baseline."""
    yield "no voice, no smoothing", {"smooth_s": 0.0}
    for smooth_s in map(float, smooth.split(",")):
        for adapt in ADAPT:
            yield f"{adapt}, smooth {smooth_s:g} s", {"adapt": adapt, "smooth_s": smooth_s}
    for adapt in ("none", "recording"):
        yield f"{adapt}, turns and speakers given", {"given": conversation.turns, "adapt": adapt}


def score_phases(segments: Sequence[Segment], conversation: Conversation) -> Score:
    """Return how segments follow a conversation."""
    right_s = found_s = 0.0
    for start_s, end_s, truth in conversation.speech:
        for segment in segments:
            overlap = min(segment.end_s, end_s) - max(segment.start_s, start_s)
            if overlap > 0:
                found_s += overlap
                right_s += overlap * (segment.emotion == truth)
    return Score(
        right_s,
        found_s,
        sum(end_s - start_s for start_s, end_s, _ in conversation.speech),
        sum(one.emotion != two.emotion for one, two in pairwise(segments)),
        sum(one != two for one, two in pairwise(conversation.emotions)),
        conversation.minutes,
    )


def print_group(corpus: str, group: str, corpora: Sequence[dict[str, list[Score]]]) -> None:
    """Print the rows of one group of conversations: setting -> scores, of each of some corpora."""
    baseline: npt.NDArray[np.float64] | None = None
    for setting in corpora[0]:
        parts = [rows[setting] for rows in corpora]
        values = np.mean(
            [ratio(part, lambda one: one.right_s, lambda one: one.found_s) for part in parts], axis=0
        )
        baseline = values if baseline is None else baseline
        switches, true = (
            np.mean([sum(map(count, part)) / sum(one.minutes for one in part) for part in parts])
            for count in (lambda one: one.switches, lambda one: one.true_switches)
        )
        difference = "" if baseline is values else with_interval(values - baseline)
        cells = [corpus, group, setting, with_interval(values), difference, f"{switches:.2f}", f"{true:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


Counted = TypeVar("Counted", Score, SuretyCount)


def ratio(
    scores: Sequence[Counted], part: Callable[[Counted], float], whole: Callable[[Counted], float]
) -> npt.NDArray[np.float64]:
    """Return Σ part / Σ whole: of all scores, then of each draw of conversations."""
    draws, row_of = draw_speakers([str(number) for number in range(len(scores))], RESAMPLES)
    order = np.argsort(row_of)
    all_draws = np.concatenate([np.ones((1, len(scores)), dtype=np.int64), draws])
    parts, wholes = (np.array([get(one) for one in scores])[order] for get in (part, whole))
    return np.asarray((all_draws @ parts) / (all_draws @ wholes), dtype=np.float64)


class CachedRecognizer(Recognizer):
    """A recogniser that runs the trunk of the model only once for the same window, and the head too."""

    statistics_of: dict[bytes, npt.NDArray[np.float32]]  # hash of a window -> (dim,)
    outputs_of: dict[tuple[bytes, bytes], Outputs]  # hash of a window, voice

    def run(self, waveform: Waveform, voice: npt.NDArray[np.float32] | None = None) -> Outputs:
        """Return the outputs for a waveform (samples,)."""
        key = hashlib.blake2b(waveform.tobytes(), digest_size=16).digest()
        if key not in self.statistics_of:
            self.statistics_of[key] = super().run(waveform)["statistics"]
        return self.head_outputs(self.statistics_of[key], voice)

    def head_outputs(
        self, statistics: npt.NDArray[np.float32], voice: npt.NDArray[np.float32] | None
    ) -> Outputs:
        """Return the outputs for the statistics (dim,) of a window."""
        parts = (statistics.tobytes(), b"" if voice is None else voice.tobytes())
        key = hashlib.blake2b(parts[0]).digest(), hashlib.blake2b(parts[1]).digest()
        if key not in self.outputs_of:
            (outputs,) = self.student.run_head(statistics[None], voice)
            self.outputs_of[key] = {**outputs, "statistics": statistics}
        return self.outputs_of[key]

    def classify_statistics(
        self, statistics: npt.NDArray[np.float32], shrunk: npt.NDArray[np.float32] | None = None
    ) -> WindowOutput:
        """Return what the head predicts for statistics (windows, dim)."""
        outputs = [self.head_outputs(row, shrunk) for row in statistics]
        return self.combined(outputs, shrunk is not None)


class ReplayedDetector:
    """A speech detector that reads a waveform once, and then returns the same frames again."""

    def __init__(self, frames: list[npt.NDArray[np.float32]]) -> None:
        self.frames = frames  # of each push, then of finish
        self._detector = SpeechDetector()

    def stream(self) -> "ReplayedStream":
        """Open a stream of the same waveform."""
        return ReplayedStream(self.frames, self._detector.stream() if not self.frames else None)


class ReplayedStream:
    """The frames of a waveform, from the detector the first time."""

    def __init__(self, frames: list[npt.NDArray[np.float32]], first: SpeechStream | None) -> None:
        self._frames, self._first, self._place = frames, first, 0

    def push(self, waveform: Waveform) -> npt.NDArray[np.float32]:
        """Return the frames that are known after this chunk (samples,)."""
        return self._next(lambda stream: stream.push(waveform))

    def finish(self) -> npt.NDArray[np.float32]:
        """Return the last frames."""
        return self._next(lambda stream: stream.finish())

    def _next(self, read: Callable[[SpeechStream], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        if self._first is not None:
            self._frames.append(read(self._first))
        self._place += 1
        return self._frames[self._place - 1]


@contextmanager
def cached_model(
    model: str, emotions: Sequence[str] | None, cache: Path | None
) -> Iterator[tuple[CachedRecognizer, ReplayedDetector]]:
    """Give a recogniser and a detector for one conversation. The file `cache` keeps what they compute."""
    recognizer = CachedRecognizer(model, emotions=emotions, threads=1)
    known = pickle.loads(cache.read_bytes()) if cache is not None and cache.is_file() else {}
    model_hash = recognizer.card.sha256
    recognizer.statistics_of, frames = known.get(model_hash, ({}, []))
    recognizer.outputs_of = {}
    num_known = len(recognizer.statistics_of)
    detector = ReplayedDetector(frames)
    yield recognizer, detector
    if cache is not None and len(recognizer.statistics_of) > num_known:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_bytes(pickle.dumps({model_hash: (recognizer.statistics_of, detector.frames)}))


def wav_bytes(waveform: Waveform) -> bytes:
    """Return a waveform (samples,) as the bytes of a WAV."""
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def answer(segments: Sequence[Segment], turn: GivenSegment) -> str | None:
    """Return the emotion that segments have for most of a turn; None if none overlaps it.

    A given segment with the turn's own span answers alone.
    """
    own = [s for s in segments if s.speaker == turn.speaker and s.start_s == turn.start_s]
    overlaps: dict[str, float] = defaultdict(float)
    for segment in own or segments:
        overlap = min(segment.end_s, turn.end_s) - max(segment.start_s, turn.start_s)
        if segment.emotion is not None and overlap > 0:
            overlaps[segment.emotion] += overlap
    return max(overlaps, key=overlaps.__getitem__, default=None)


def accuracies(right: Counts, total: Counts) -> npt.NDArray[np.float64]:
    """Return UA for counts (conversations, emotions): of all, then of each draw of conversations."""
    names = [str(number) for number in range(len(right))]
    draws, row_of = draw_speakers(names, RESAMPLES)
    order = np.argsort(row_of)
    all_draws = np.concatenate([np.ones((1, len(right)), dtype=np.int64), draws])
    with np.errstate(invalid="ignore"):
        recalls = (all_draws @ right[order]) / (all_draws @ total[order])
    return np.asarray(np.nanmean(recalls, axis=1), dtype=np.float64)


def with_interval(values: npt.NDArray[np.float64]) -> str:
    """Return a value in percent with the interval of its draws."""
    low, high = percentile_interval(values[1:])
    return f"{100 * values[0]:.1f} ({100 * low:.1f} … {100 * high:.1f})"


if __name__ == "__main__":
    main()
