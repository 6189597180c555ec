"""What to do about a change that fails, by the names of changes."""

from fnmatch import fnmatch

_ADVICE: tuple[tuple[str, str], ...] = (
    # (patterns of names, what to do)
    ("gain quiet loud", "Scale each recording to its peak before the model, or train with augment.gain_db."),
    (
        "append-zeros prepend-zeros silence-around pauses trim",
        "Let a speech detector cut the silence and shorten pauses before the model.",
    ),
    (
        "crop-beginning crop-end cut half",
        "The answer depends on a few sounds at an end: train on random cuts of the utterances.",
    ),
    (
        "clip clipped",
        "Train with clipped copies (augment.gain_db above full scale), and record at a lower level.",
    ),
    ("tone hum-*", "Train with augment.noise_snr_db, or filter what lies outside of speech."),
    ("white-noise-*", "Train with augment.noise_snr_db that includes this ratio."),
    (
        "babble-* overlap-*",
        "Train with augment.babble_snr_db that includes this ratio, or separate the speakers.",
    ),
    ("music-*", "Train with augment.music_snr_db that includes this ratio."),
    ("ambience-*", "Train with augment.noise_snr_db that includes this ratio."),
    ("high-pass low-pass tilt-*", "Train with augment.equalise_db, as if microphones differed."),
    ("phone telephone-band mu-law-* gsm", "Train with augment.band_limit_probability and codec_probability."),
    (
        "flac dither resample speed",
        "The model depends on single samples: train with augment.speed and augment.noise_snr_db.",
    ),
    ("mp3-* opus-*", "Train with augment.codec_probability."),
    ("room-*", "Train with augment.reverb_probability."),
)
FAIRNESS_ADVICE = "Compare the answers of these groups with the labels, and balance the groups in training."


def advice(name: str) -> str | None:
    """Return what to do where the change `name` fails; None: nothing is known."""
    for patterns, text in _ADVICE:
        if any(fnmatch(name, pattern) for pattern in patterns.split()):
            return text
    return None
