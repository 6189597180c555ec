// The types of `index.js`, which a test compares with what the recogniser returns.
// Times are seconds from the beginning of the recording or stream.

/** Load `audio` from a file: an AudioBuffer at the file's own rate. Rejects if this browser cannot decode it. */
export function decodeAudio(file: Blob): Promise<AudioBuffer>;

/**
 * An AudioBuffer of any rate and any number of channels, or samples at 16 kHz from -1 to 1: of one channel, or
 * of several channels of the same length.
 */
export type Audio = AudioBuffer | Float32Array | readonly Float32Array[];

/** The name of an emotion, one of `recognizer.emotions`. */
export type Emotion = string;

/** Probabilities by emotion, with the sum 1. */
export type Probabilities = Record<Emotion, number>;

/** `arousal` and `valence` from -1 to 1, or what the head of the model predicts. */
export type Dimensions = Record<string, number>;

/** How far an answer can be trusted, from its confidence and the model's accuracy on other corpora. */
export type Surety = 'likely' | 'unsure' | 'no better than a guess';

/** Why there is no emotion. */
export type Reason = 'too_short' | 'silence' | 'no_speech' | 'low_confidence';

/** The answer for one utterance. */
export interface Prediction {
  /** Null if the recogniser abstains; `reason` says why. */
  emotion: Emotion | null;
  confidence: number | null;
  /** Empty without speech. */
  probabilities: Probabilities;
  /** What each teacher's head would predict, by its name. Only with an emotion. */
  teachers?: Record<string, Probabilities>;
  abstained: boolean;
  reason: Reason | null;
  /** Always null: an error rejects the promise. The member exists for programs that also read Python's rows. */
  error: null;
  surety?: Surety;
  dimensions?: Dimensions;
  dimensions_from?: 'emotions' | 'head';
}

/** A part of the speech with one emotion. */
export interface Segment {
  start_s: number;
  end_s: number;
  /** Null below `minConfidence`. */
  emotion: Emotion | null;
  confidence: number;
  probabilities: Probabilities;
  surety?: Surety;
  dimensions?: Dimensions;
  dimensions_from?: 'emotions' | 'head';
  /** How many utterances the voice has that the segment was compared with. Only with `adapt`. */
  voice_utterances?: number;
  /** Only with `channels: 'split'`. */
  speaker?: string;
  /** Only with `channels: 'split'`, or the number of a channel. */
  channel?: number;
}

/** Emotion over time. */
export interface Timeline {
  duration_s: number;
  /** In order of time. */
  segments: Segment[];
  /** Seconds by emotion. */
  summary: Record<Emotion, number>;
  /** Why there are no segments. */
  reason: Reason | null;
  /** Always null: an error rejects the promise. */
  error: null;
  /** The summary of each speaker. Only with `channels: 'split'`. */
  speakers?: Record<string, Record<Emotion, number>>;
}

export interface SpeechStarted {
  event: 'speech_started';
  time_s: number;
}

export interface SpeechEnded {
  event: 'speech_ended';
  time_s: number;
}

/** The last two seconds of speech, twice a second. */
export interface WindowUpdate {
  event: 'update';
  start_s: number;
  end_s: number;
  /** The emotion that a segment would have now. Null below `minConfidence`. */
  emotion: Emotion | null;
  probabilities: Probabilities;
  dimensions?: Dimensions;
  dimensions_from?: 'emotions' | 'head';
  voice_utterances?: number;
}

/** A part of the speech whose emotion is final. It comes up to 8 seconds later than the updates of its end. */
export interface SegmentEvent extends Segment {
  event: 'segment';
}

export type StreamEvent = SpeechStarted | WindowUpdate | SegmentEvent | SpeechEnded;

/** What `model.json` says about a model. */
export interface Card {
  format: 1;
  name: string;
  emotions: Emotion[];
  /** The dimensions of the model's own head; empty if they are computed from the emotions. */
  dimensions: string[];
  /** A colour for each emotion, as #rrggbb. */
  colours: Record<Emotion, string>;
  num_parameters: number;
  licence: string;
  limits: string;
  intended_use: string;
  sha256: string;
  /** Null if the model has no voices, so that `adapt` is refused. */
  voice_dim: number | null;
  trim_db: number | null;
  temperature: number;
  temperature_voice: number | null;
  accuracy: { confidence: number; accuracy: number }[];
  accuracy_voice: { confidence: number; accuracy: number }[];
}

export interface PredictOptions {
  /** The number of a channel, from 0. Default: 'mix', the mean of the channels that hold sound. */
  channel?: 'mix' | number;
  /** Below this confidence, from 0 to 1, there is no emotion. Default: 0. */
  minConfidence?: number;
  /** Ends the work; the promise then rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Gets the share that is done, from 0 to 1. */
  onProgress?: (share: number) => void;
}

export interface TimelineOptions {
  /** 'mix' (the default), 'split' (each channel as a speaker), or the number of a channel, from 0. */
  channels?: 'mix' | 'split' | number;
  /** The speakers in the channels, in order, with `channels: 'split'`. Default: 'channel 0', 'channel 1', … */
  names?: readonly string[] | null;
  /**
   * 'none' (the default). 'recording': compare each part with how the speaker sounds in the whole recording.
   * 'running': with the speech before. Do not use them if a speaker has one emotion only.
   */
  adapt?: 'none' | 'running' | 'recording';
  minConfidence?: number;
  signal?: AbortSignal;
  /** Gets the share that is done, from 0 to 1, and the number of windows so far. */
  onProgress?: (share: number, numWindows: number) => void;
}

export interface StreamOptions {
  adapt?: 'none' | 'running';
  minConfidence?: number;
}

/** A live stream of samples. Await the events of a chunk before you push the next one. */
export interface Stream {
  /** The events that these samples complete: samples of one channel from -1 to 1, in chunks of any length. */
  push(samples: Float32Array): AsyncGenerator<StreamEvent, void, undefined>;
  /** The events up to the end of the audio. */
  finish(): AsyncGenerator<StreamEvent, void, undefined>;
}

/** A loaded model. It works on the device of the user, and sends no audio anywhere. */
export class Recognizer {
  private constructor();

  /**
   * Load a model from the URL of a folder that `emodistill export --web-model DIR` writes. A relative URL is
   * relative to the page, or to the script of a worker. Rejects with the URL of the file that is missing, or
   * that is no model.
   */
  static load(folder: string | URL): Promise<Recognizer>;

  readonly card: Card;
  readonly emotions: Emotion[];

  /** The emotion of one utterance. */
  predict(audio: Audio, options?: PredictOptions): Promise<Prediction>;

  /** The emotion over time in a recording of any length. */
  timeline(audio: Audio, options?: TimelineOptions): Promise<Timeline>;

  /**
   * The events of a microphone or call, until its audio tracks end or are stopped. Leaving the loop ends the
   * recognition, and does not stop the tracks. The browser may wait for the user's first click on the page.
   */
  listen(mediaStream: MediaStream, options?: StreamOptions): AsyncGenerator<StreamEvent, void, undefined>;

  /** A stream of samples at a rate of 3000 to 384000 Hz, a whole number. */
  stream(rate: number, options?: StreamOptions): Stream;
}
