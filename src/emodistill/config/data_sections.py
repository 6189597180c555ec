"""The sections of a recipe about data: corpus, protocol, audio and augmentation.

The comment above each field is its reference; the value in the code is its default. A field is set in a TOML
file or by `--set`, for example `augment.views=3`. `none` stands for None.
"""

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    field_validator,
    model_validator,
)

from emodistill.config.renaming import read_columns, read_emotions
from emodistill.labels import Scale, check_scale, read_scale


class Section(BaseModel):
    """A part of a recipe. It cannot be changed after it was read, and an unknown key is an error.

    A field that a recipe leaves out keeps the default of its place: `prosodic.optim` and `student.optim` have
    different defaults. The text "none" stands for None, because TOML has no null.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        completed = {key: None if value == "none" else value for key, value in data.items()}
        for name, field in cls.model_fields.items():
            default, given = field.default, completed.get(name)
            if isinstance(default, Section) and isinstance(given, dict):
                completed[name] = {**default.model_dump(), **given}
        return completed


class CorpusConfig(Section):
    """The recordings: a known corpus with its folder, several known corpora, or a manifest."""

    # Name of a reader (ravdess, iemocap, …). With a manifest or a pool: any name that you like.
    name: str = "corpus"
    # Folder of the corpus, as its authors distribute it.
    root: str | None = None
    # Names of several readers, whose corpora are used as one. `root` then holds one folder for each.
    pool: tuple[str, ...] = ()
    # Manifest: utterances.csv, .tsv or .parquet. It is read instead of
    # a folder, so `root` must be None.
    manifest: str | None = None
    # Folder that holds the manifest's audio, where it is not in the folder of the manifest. The paths in a
    # manifest lead nowhere else, unless `emodistill corpus prepare` wrote it on this machine.
    audio_root: str | None = None
    # Renames columns of the manifest: {our column = "column of the file"}, or the text "id=file,path=wav" of
    # the option --columns.
    columns: dict[str, str] = {}
    # Renames emotions before `labels` is applied: {anger = "angry", oth = "-"}, or the text
    # "anger=angry,oth=-" of the option --map-emotions. "-" leaves utterances of an emotion out.
    emotions: dict[str, str] = {}
    # Name of a label map (own, four, seven, iemocap-4), or a list such as "angry,sad". None: the default map
    # of the corpus.
    labels: str | None = None
    # Lowest and highest possible value of the dimensions, as [1, 5] or as the text "1..5" of the option
    # --scale. It is for utterances without a scale: one that the corpus or a row declares comes first.
    scale: tuple[float, float] | None = None
    # CSV with the columns id, transcript and source. Its transcripts, for example of a speech recogniser,
    # replace those of the corpus.
    transcripts: str | None = None
    # Times of words, for distillation.words: a table with the columns id, start_s, end_s and word, a .ctm
    # file, or a folder with one JSON of whisperX for each utterance.
    words: str | None = None
    # Manifest of further speech with transcripts. The student learns from the linguistic teacher's outputs on
    # it, in training alone. Its emotion labels are not used. Utterances of dev or test speakers, or with the
    # words of a dev or test utterance, are left out.
    further: str | None = None
    # Times of the words of the further speech, as in `words`.
    further_words: str | None = None

    @field_validator("columns", mode="before")
    @classmethod
    def _columns(cls, value: Any) -> Any:
        return read_columns([value], "corpus.columns") if isinstance(value, str) else value

    @field_validator("scale", mode="before")
    @classmethod
    def _read_scale(cls, value: Any) -> Any:
        return read_scale(value, "corpus.scale") if isinstance(value, str) else value

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, value: Scale | None) -> Scale | None:
        return None if value is None else check_scale(value, "corpus.scale")

    @field_validator("emotions", mode="before")
    @classmethod
    def _emotions(cls, value: Any) -> Any:
        return read_emotions([value], "corpus.emotions") if isinstance(value, str) else value


class ProtocolConfig(Section):
    """How speakers are divided into train, dev and test."""

    # leave-one-…-out: each speaker, session or corpus is the test split of one fold. k-fold: `folds` groups
    # of speakers. fixed: the list named by `fixed`. published: the split that the corpus publishes.
    # list: the folds of your own CSV. emobox: the folds that EmoBox publishes.
    kind: Literal[
        "leave-one-speaker-out", "leave-one-session-out", "leave-one-corpus-out", "k-fold", "fixed",
        "published", "list", "emobox",
    ] = "k-fold"  # fmt: skip
    # k-fold: number of folds. leave-one-corpus-out: one in `folds` speakers of each training corpus is dev.
    # list and emobox: where neither the list nor the next fold gives dev, one in `folds` training speakers.
    folds: int = Field(5, ge=2)
    # Name of a list in emodistill.protocol.fixed_lists: a key of FIXED_FOLDS or of FIXED_SPLITS.
    fixed: str | None = None
    # list: a CSV with the columns id and fold, and perhaps split. emobox: EmoBox's folder of the corpus, such
    # as EmoBox/data/ravdess.
    folds_from: str | None = None
    # Dev speakers. next-fold: the test speakers of the next fold. same-session: the other speaker of the
    # session, with leave-one-speaker-out. auto: same-session where every session has two speakers, else
    # next-fold.
    dev: Literal["auto", "next-fold", "same-session"] = "auto"
    # Leaks that a published split has by design. "speaker": a speaker may be in two splits. The text "LEAKS
    # speaker BY DESIGN" then stands beside each score. With it, k-fold divides the utterances of a corpus of
    # one or two speakers, and leave-one-session-out divides utterances by session.
    allow: tuple[Literal["speaker"], ...] = ()
    # After dev has chosen the number of epochs: true trains all models again on train + dev. "classifier"
    # keeps the models and fits only the student's classifier again on train + dev.
    refit: bool | Literal["classifier"] = False

    @model_validator(mode="after")
    def _check(self) -> "ProtocolConfig":
        if self.kind == "list" and self.folds_from is None:
            raise ValueError("kind = 'list' needs folds_from: a CSV with the columns id and fold")
        if self.kind == "emobox" and self.folds_from is None:
            raise ValueError("kind = 'emobox' needs folds_from: a folder such as EmoBox/data/ravdess")
        if self.folds_from is not None and self.kind not in ("list", "emobox"):
            raise ValueError(
                f"folds_from = '{self.folds_from}' has no effect with kind = '{self.kind}': set kind to "
                "'list' or 'emobox', or folds_from to 'none'"
            )
        return self


class AudioConfig(Section):
    """How a recording is prepared before a model uses it. The keys of cached features depend on it."""

    # Trim both ends where they are more than this below the loudest frame, in dB. None: do not trim.
    trim_db: float | None = Field(35.0, gt=0)
    # Cut longer utterances to this length in training, in seconds.
    max_s: float = Field(20.0, gt=0)


_LEFT_OUT_OF_KEYS = {
    "reverb_rt60_s", "reverb_level", "music_snr_db", "music_probability", "babble_snr_db",
    "babble_probability",
}  # fmt: skip


class AugmentConfig(Section):
    """Augmentation of waveforms. A view is one version of an utterance; view 0 is the clean recording."""

    # Views of an utterance. 1: the clean recording alone. 0: a new view in every epoch.
    views: int = Field(1, ge=0)
    # Seed of the views. The recipe's seed does not change them, so runs with different seeds share a cache.
    seed: int = 0
    # Resample by a factor in 1 ± speed, which changes tempo and pitch together.
    speed: float = Field(0.0, ge=0, lt=0.5)
    # Draw all augmentation except speed again in every epoch, for the student alone. A frozen acoustic
    # teacher then gets the view without it.
    fresh: bool = False
    # Change the level by up to ± this, in dB.
    gain_db: float = Field(0.0, ge=0)
    # Apply a smooth random frequency response of up to ± this, in dB.
    equalise_db: float = Field(0.0, ge=0)
    # Range of the signal-to-noise ratio of added noise, in dB. The noise is between white and brown. None: do
    # not add noise.
    noise_snr_db: tuple[float, float] | None = None
    # Probability that a view has noise; it also needs `noise_snr_db`.
    noise_probability: float = Field(0.5, ge=0, le=1)
    # Probability that a view has the reverberation of a room.
    reverb_probability: float = Field(0.0, ge=0, le=1)
    # Range of the time in which the reverberation decays by 60 dB (RT60), in seconds.
    reverb_rt60_s: tuple[PositiveFloat, PositiveFloat] = (0.15, 0.6)
    # Range of the reverberation's amplitude; the direct sound has 1. With 1 both have the same energy.
    reverb_level: tuple[NonNegativeFloat, NonNegativeFloat] = (0.1, 0.5)
    # Probability that a view has the band of a telephone line, from 150 … 400 Hz to 3 … 4 kHz.
    band_limit_probability: float = Field(0.0, ge=0, le=1)
    # Probability that a view was encoded and decoded: with mu-law, GSM, MP3, Vorbis or Opus.
    codec_probability: float = Field(0.0, ge=0, le=1)
    # Range of the signal-to-noise ratio of added music, in dB. The music is synthesised: chords, bass, melody
    # and drums. None: do not add music.
    music_snr_db: tuple[float, float] | None = None
    # Probability that a view has music; it also needs `music_snr_db`.
    music_probability: float = Field(0.3, ge=0, le=1)
    # Range of the signal-to-noise ratio of added babble, in dB. Babble is the sum of 3 to 6 other training
    # utterances, of other speakers where there are any. It needs `fresh`. None: do not add babble.
    babble_snr_db: tuple[float, float] | None = None
    # Probability that a view has babble; it also needs `babble_snr_db`.
    babble_probability: float = Field(0.3, ge=0, le=1)

    def key_settings(self) -> dict[str, Any]:
        """Return the settings as plain data for the keys of caches.

        Fields in `_LEFT_OUT_OF_KEYS` appear only where they differ from their default. So a new kind of
        augmentation that is off does not change the key of what is in a cache.
        """
        return {
            name: value
            for name, value in self.model_dump().items()
            if name not in _LEFT_OUT_OF_KEYS or value != type(self).model_fields[name].default
        }

    @model_validator(mode="after")
    def _check(self) -> "AugmentConfig":
        kinds = (
            self.speed, self.gain_db, self.noise_snr_db, self.reverb_probability,
            self.band_limit_probability, self.codec_probability, self.equalise_db, self.music_snr_db,
            self.babble_snr_db,
        )  # fmt: skip
        if self.babble_snr_db is not None and not self.fresh:
            raise ValueError(
                "babble depends on the other training utterances, so it cannot be part of a cached view: set "
                "augment.fresh = true, or augment.babble_snr_db = 'none'"
            )
        if self.fresh and not self.views:
            raise ValueError("fresh needs a fixed number of views: set augment.views to 1 or more")
        if self.fresh and not self.speed and self.views > 1:
            raise ValueError(
                "with fresh, views differ only in speed: set augment.speed, or augment.views = 1"
            )
        if self.views == 1 and (self.speed or (any(kinds) and not self.fresh)):
            raise ValueError(
                "views = 1 is the clean recording alone, so augmentation has no effect: set augment.views to "
                "2 or more, or to 0 for a new view in every epoch"
            )
        return self
