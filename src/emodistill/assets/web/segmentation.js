// From a stretch of speech to its segments: `emodistill/inference/segmentation.py` in the browser.
//
//   windows, one ending at every hop → log-probabilities
//   → mean over the windows that cover a cell (one hop)
//   → the path of emotions with the highest score → segments
//
// All positions are samples at 16 kHz from the beginning of the audio.

import { argmax } from './recognizer.js';
import settings from './settings.js';
import { concatenate } from './speech_activity.js';

const { SAMPLE_RATE } = settings.waveform;
const { HOP_S, WINDOW_S, SMOOTH_S, MIN_DURATION_S } = settings.segmentation_options;
const { CHANGE_COST, CHANGE_COST_PER_S, VOICE_CHANGE_COST_PER_S } = settings.segmentation;
const { MIN_PROBABILITY, MIN_RUN_CELLS, MAX_UNDECIDED_CELLS } = settings.segmentation;
const HOP = Math.round(HOP_S * SAMPLE_RATE);
const WINDOW = Math.round(WINDOW_S * SAMPLE_RATE);
const CELLS_PER_WINDOW = WINDOW / HOP;

// A score is { values: log-probabilities, dimensions: of the model's head, or null, voiceUtterances: of the
// voice that the window was compared with, or null }.

const mean = (rows) => rows[0].map((_, at) => rows.reduce((sum, row) => sum + row[at], 0) / rows.length);

// The mean of the scores of several windows in order of time, with the voice of the last one.
const meanScore = (scores) => ({
  values: mean(scores.map(({ values }) => values)),
  dimensions: scores[0].dimensions && mean(scores.map(({ dimensions }) => dimensions)),
  voiceUtterances: scores.at(-1).voiceUtterances,
});

// The field of an event about its voice; no field without a voice.
const voiceField = ({ voiceUtterances }) =>
  voiceUtterances === null ? {} : { voice_utterances: voiceUtterances };

// Keeps the recent audio of one stream, and runs the model on windows of it, without a voice. The subclasses
// in `voices.js` compare the windows with a voice.
export class WindowScorer {
  constructor(recognizer) {
    this.recognizer = recognizer;
    this.changeCostPerS = this.usesVoice ? VOICE_CHANGE_COST_PER_S : CHANGE_COST_PER_S;
    this.numSamples = 0; // received
    this.blocks = []; // [first sample, samples]
  }

  // Whether windows are compared with a voice.
  get usesVoice() {
    return false;
  }

  append(block) {
    if (block.length === 0) return;
    this.blocks.push([this.numSamples, block]);
    this.numSamples += block.length;
  }

  // Drop the blocks that end before this sample.
  forget(before) {
    while (this.blocks.length && this.blocks[0][0] + this.blocks[0][1].length <= before) this.blocks.shift();
  }

  between(begin, end) {
    const parts = this.blocks.filter(([first, block]) => first < end && begin < first + block.length);
    const cut = ([first, block]) => block.subarray(Math.max(0, begin - first), end - first);
    return concatenate(...parts.map(cut));
  }

  // The score of a window. Subclasses also take how much of it no earlier window has contributed to a voice;
  // 0: this window contributes nothing.
  async score(begin, end) {
    return this.scoreOf(await this.compare(begin, end, null), null);
  }

  // What the model predicts for a window. The model subtracts `shrunk`, if it is not null.
  compare(begin, end, shrunk) {
    return this.recognizer.classify(this.between(begin, end), shrunk);
  }

  // The score for what the model predicts.
  scoreOf({ probabilities, dimensions }, voiceUtterances) {
    const values = probabilities.map((value) => Math.log(Math.max(value, MIN_PROBABILITY)));
    return { values, dimensions, voiceUtterances };
  }

  // Probabilities by emotion, summing to 1, from log-probabilities.
  probabilities(logProbabilities) {
    const top = Math.max(...logProbabilities);
    const values = logProbabilities.map((value) => Math.exp(value - top));
    const sum = values.reduce((total, value) => total + value, 0);
    return this.recognizer.byEmotion(values.map((value) => value / sum));
  }

  // The segment between two samples with its mean score. Its emotion is the one with the index `chosen`.
  segment(begin, end, score, chosen) {
    const probabilities = this.probabilities(score.values);
    // A voice of this page was learned from the recording itself, so its segments are not as sure as answers
    // with a known voice.
    const hasVoice = false;
    return {
      start_s: begin / SAMPLE_RATE, end_s: end / SAMPLE_RATE, probabilities, ...voiceField(score),
      ...this.recognizer.answer(
        probabilities, hasVoice, this.recognizer.emotions[chosen], score.dimensions,
      ),
    };
  }
}

// Makes segments of the cells of one recording or stream, in order of time. A segment ends where the emotion
// changes, or where the speech pauses. Yields events { event: 'segment', … }.
export class SegmentTrack {
  // `maxWaitS` is how much later audio a cell waits for.
  constructor(scorer, smoothS = SMOOTH_S, maxWaitS = smoothS) {
    this.scorer = scorer;
    this.isSmooth = smoothS > 0;
    this.maxWait = Math.round(maxWaitS * SAMPLE_RATE);
    const minCells = Math.max(MIN_RUN_CELLS, Math.ceil(MIN_DURATION_S / HOP_S));
    const cost = CHANGE_COST + scorer.changeCostPerS * smoothS;
    this.path = new Path(cost, minCells, this.isSmooth ? Infinity : MAX_UNDECIDED_CELLS);
    this.forgetting = this.isSmooth ? 1 / (smoothS * SAMPLE_RATE) : 0; // for each sample
    this.undecided = []; // cells { begin, end, score }
    this.run = null; // the decided cells that are no segment yet
    this.last = null; // the run of the last segment
    this.pausedAt = -1; // the end of the last stretch that is over
  }

  // Add the next cell.
  *add(begin, end, score) {
    yield* this.decideBefore(begin);
    this.undecided.push({ begin, end, score });
    yield* this.addDecided(this.path.push(score.values.map((value) => value * ((end - begin) / HOP))));
  }

  // A stretch of speech ends at this sample.
  *pause(end) {
    this.pausedAt = end;
    if (!this.isSmooth) yield* this.addDecided(this.path.finish());
    else if (this.undecided.length === 0) yield* this.closeRun();
  }

  // Decide the cells that waited long enough, if the next cell begins at this sample or later.
  *decideBefore(begin) {
    while (this.isSmooth && this.undecided.length && begin - this.undecided[0].end >= this.maxWait) {
      yield* this.addDecided(this.path.decideOldest());
    }
  }

  *finish() {
    yield* this.addDecided(this.path.finish());
  }

  // The emotions of the oldest undecided cells are now known.
  *addDecided(emotions) {
    for (const emotion of emotions) {
      const { begin, end, score } = this.undecided.shift();
      if (this.run && (this.run.emotion !== emotion || this.run.end !== begin)) yield* this.closeRun();
      this.run ??= new Run(begin, emotion, this.memoryOf(emotion));
      this.run.extend(end, score, this.forgetting);
      if (end === this.pausedAt) yield* this.closeRun();
    }
  }

  // The mean of the last segment, if it has the same emotion and the track is smooth.
  memoryOf(emotion) {
    return this.isSmooth && this.last?.emotion === emotion ? this.last.mean : null;
  }

  *closeRun() {
    if (this.run) yield this.run.segment(this.scorer);
    [this.run, this.last] = [null, this.run];
  }
}

// Consecutive cells of one emotion. With smoothing, its probabilities also count the segments of this emotion
// just before it: the less, the longer ago.
class Run {
  constructor(begin, emotion, memory) {
    Object.assign(this, { begin, end: begin, emotion, mean: memory, voiceUtterances: null });
  }

  extend(end, { values, dimensions, voiceUtterances }, forgetting) {
    const added = end - this.end;
    const old = this.mean ? this.mean.numSamples * Math.exp(-added * forgetting) : 0;
    const blend = (now, before) =>
      now && now.map((value, at) => (value * added + (before ?? now)[at] * old) / (old + added));
    this.mean = {
      values: blend(values, this.mean?.values), dimensions: blend(dimensions, this.mean?.dimensions),
      numSamples: old + added,
    };
    Object.assign(this, { end, voiceUtterances });
  }

  segment(scorer) {
    const score = { ...this.mean, voiceUtterances: this.voiceUtterances }; // of the last cell
    return { event: 'segment', ...scorer.segment(this.begin, this.end, score, this.emotion) };
  }
}

// One stretch of speech. Yields its events { event: 'update' | 'segment', … }.
export class Stretch {
  constructor(scorer, start, track) {
    Object.assign(this, { scorer, start, track });
    this.windowEnd = start; // of the last window
    this.last = null; // score of the last window
    this.recent = []; // windows of full length: [the cell that they begin with, score]
    this.covered = start; // the end of the last window that counts for segments
    this.numCells = 0;
  }

  // The first sample that a window may still need, if the speech continues after the sample `until`.
  firstNeededSample(until) {
    return Math.max(this.start, until - WINDOW);
  }

  // The speech continues at least until this sample.
  async *extend(until) {
    while (this.windowEnd + HOP <= until) {
      this.windowEnd += HOP;
      const begin = Math.max(this.start, this.windowEnd - WINDOW);
      if (this.windowEnd - begin < WINDOW) {
        yield this.update(begin, this.windowEnd, await this.scorer.score(begin, this.windowEnd));
        continue;
      }
      const score = await this.score(begin, this.windowEnd);
      yield this.update(begin, this.windowEnd, score);
      this.recent.push([this.numCells, score]);
      yield* this.addCell(this.start + (this.numCells + 1) * HOP);
    }
  }

  // The speech ended at this sample.
  async *close(end) {
    const lastWindow = [];
    if (this.windowEnd !== end || end - this.start < WINDOW) {
      const begin = Math.max(this.start, end - WINDOW);
      lastWindow.push(await this.score(begin, end));
      yield this.update(begin, end, lastWindow[0]);
    }
    for (let begin = this.start + this.numCells * HOP; begin < end; begin += HOP) {
      yield* this.addCell(Math.min(begin + HOP, end), lastWindow);
    }
    yield* this.track.pause(end);
  }

  // The score of a window that counts for segments.
  score(begin, end) {
    const newSamples = end - this.covered;
    this.covered = end;
    return this.scorer.score(begin, end, newSamples);
  }

  update(begin, end, score) {
    const smoothed = this.last ? meanScore([this.last, score]) : score;
    this.last = score;
    const probabilities = this.scorer.probabilities(smoothed.values);
    const times = { start_s: begin / SAMPLE_RATE, end_s: end / SAMPLE_RATE };
    const { recognizer } = this.scorer;
    const dimensions = recognizer.dimensionFields(probabilities, smoothed.dimensions);
    const chosen = recognizer.emotions[this.track.path.newest()]; // undefined: the most probable one
    const { emotion } = recognizer.answer(probabilities, score.voiceUtterances !== null, chosen);
    return { event: 'update', ...times, probabilities, ...voiceField(score), ...dimensions, emotion };
  }

  // Add the next cell, which ends at this sample. All windows that cover it are known.
  *addCell(end, lastWindow = []) {
    this.recent = this.recent.filter(([cell]) => cell > this.numCells - CELLS_PER_WINDOW);
    const score = meanScore([...this.recent.map(([, recent]) => recent), ...lastWindow]);
    const begin = this.start + this.numCells * HOP;
    this.numCells++;
    yield* this.track.add(begin, end, score);
  }
}

// The path of emotions through cells with the highest score: the sum of its log-probabilities minus `cost` for
// each change, where each emotion lasts at least `minCells` cells (Viterbi's algorithm). With more than
// `maxUndecided` cells, the best path so far decides the oldest one.
//
// A state is the pair (how many cells the emotion has lasted, at most `minCells`; emotion), as one index.
export class Path {
  constructor(cost, minCells, maxUndecided) {
    Object.assign(this, { cost, minCells, maxUndecided });
    this.scores = null; // of the best path that ends in each state
    this.back = []; // for each undecided cell: state -> state of the cell before
  }

  // The emotion of the newest cell on the best path so far; null without cells. Later cells may change it.
  newest() {
    return this.scores && argmax(this.scores) % (this.scores.length / this.minCells);
  }

  // Add a cell with its log-probabilities. Returns the emotions that are now decided, in order.
  push(logProbabilities) {
    const num = logProbabilities.length;
    const first = (this.minCells - 1) * num; // of the states whose emotion may change
    if (this.scores === null) {
      const start = (state) => (state < num ? logProbabilities[state] : -Infinity);
      this.scores = Array.from({ length: this.minCells * num }, (_, state) => start(state));
      this.back.push(this.scores.map(() => 0)); // never followed
      return this.decided(num);
    }
    const before = this.scores;
    const changeable = before.slice(first);
    // A change leaves the best state of another emotion: `best`, or `secondBest` for a change to the best
    // emotion.
    const best = argmax(changeable);
    const secondBest = argmax(changeable.map((value, at) => (at === best ? -Infinity : value)));
    const from = before.map((_, state) =>
      state >= num ? state - num : first + (state === best ? secondBest : best),
    );
    const scores = from.map((state, at) => before[state] - (at < num ? this.cost : 0));
    if (best === secondBest) scores[best] = -Infinity; // there is no other emotion that may change
    for (let state = first; state < before.length; state++) {
      if (before[state] < scores[state]) continue;
      scores[state] = before[state];
      from[state] = state;
    }
    this.scores = scores.map((score, state) => score + logProbabilities[state % num]);
    this.back.push(from);
    return this.decided(num);
  }

  // The emotions of the remaining cells, in order. The path then starts again without cells.
  finish() {
    const { scores } = this;
    this.scores = null;
    if (scores === null || this.back.length === 0) return [];
    const num = scores.length / this.minCells;
    const first = scores.length - num;
    const longEnough = scores.slice(first); // none of them is finite if there are fewer cells
    const state = longEnough.some(Number.isFinite) ? first + argmax(longEnough) : argmax(scores);
    return this.traceBack(state, this.back.length - 1, num);
  }

  // The emotion of the oldest undecided cell by the best path so far; none without cells.
  decideOldest() {
    if (this.scores === null || this.back.length === 0) return [];
    const later = this.back.slice(1);
    const oldest = this.scores.map((_, state) => later.reduceRight((at, back) => back[at], state));
    const first = oldest[argmax(this.scores)];
    // Drop the paths that began otherwise.
    this.scores = this.scores.map((score, state) => (oldest[state] === first ? score : -Infinity));
    return this.traceBack(first, 0, this.scores.length / this.minCells);
  }

  decided(num) {
    let states = [...this.scores.keys()].filter((state) => Number.isFinite(this.scores[state]));
    for (let cell = this.back.length - 1; cell > 0; cell--) {
      if (states.length === 1) return this.traceBack(states[0], cell, num);
      states = [...new Set(states.map((state) => this.back[cell][state]))];
    }
    if (states.length === 1) return this.traceBack(states[0], 0, num);
    return this.back.length > this.maxUndecided ? this.decideOldest() : [];
  }

  // The emotions up to a cell whose state is known. Removes these cells.
  traceBack(state, cell, num) {
    const emotions = [state % num];
    for (let at = cell; at > 0; at--) {
      state = this.back[at][state];
      emotions.push(state % num);
    }
    this.back.splice(0, cell + 1);
    return emotions.reverse();
  }
}
