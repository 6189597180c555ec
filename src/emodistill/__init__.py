"""EmoDistill: speech emotion recognition from the waveform alone, taught by models that know more."""
