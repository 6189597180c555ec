// From a stretch of speech to its segments: `emodistill/inference/segmentation.py` in the browser.
//
//   windows, one ending at every hop → log-probabilities
//   → mean over the windows that cover a cell (one hop)
//   → the path of emotions with the highest score → segments
//
// All positions are samples at 16 kHz from the beginning of the audio.

import { argmax, dimensionFields } from './recognizer.js';
import settings from './settings.js';
import { concatenate } from './speech_activity.js';

const { SAMPLE_RATE } = settings.waveform;
const { HOP_S, WINDOW_S } = settings.segmentation_options;
const { CHANGE_COST, MIN_PROBABILITY, MIN_RUN_CELLS, MAX_UNDECIDED_CELLS } = settings.segmentation;
const HOP = Math.round(HOP_S * SAMPLE_RATE);
const WINDOW = Math.round(WINDOW_S * SAMPLE_RATE);
const CELLS_PER_WINDOW = WINDOW / HOP;

// A score is { values: log-probabilities, voiceUtterances: of the voice that the window was compared with, or
// null }.

const mean = (rows) => rows[0].map((_, at) => rows.reduce((sum, row) => sum + row[at], 0) / rows.length);

// The mean of the scores of several windows in order of time, with the voice of the last one.
const meanScore = (scores) => ({
  values: mean(scores.map(({ values }) => values)), voiceUtterances: scores.at(-1).voiceUtterances,
});

// The field of an event about its voice; no field without a voice.
const voiceField = ({ voiceUtterances }) =>
  voiceUtterances === null ? {} : { voice_utterances: voiceUtterances };

// Keeps the recent audio of one stream, and runs the model on windows of it, without a voice. The subclasses
// in `voices.js` compare the windows with a voice.
export class WindowScorer {
  constructor(recognizer) {
    this.recognizer = recognizer;
    this.numSamples = 0; // received
    this.blocks = []; // [first sample, samples]
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
    return { values: (await this.compare(begin, end, null))[0], voiceUtterances: null };
  }

  // The log-probabilities of a window and its statistics. The model subtracts `shrunk`, if it is not null.
  async compare(begin, end, shrunk) {
    const [values, statistics] = await this.recognizer.classify(this.between(begin, end), shrunk);
    return [this.log(values), statistics];
  }

  log(probabilities) {
    return probabilities.map((value) => Math.log(Math.max(value, MIN_PROBABILITY)));
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
    const hasVoice = score.voiceUtterances !== null;
    return {
      start_s: begin / SAMPLE_RATE, end_s: end / SAMPLE_RATE, probabilities, ...voiceField(score),
      ...this.recognizer.answer(probabilities, hasVoice, this.recognizer.emotions[chosen]),
    };
  }
}

// One stretch of speech. Yields its events { event: 'update' | 'segment', … }.
export class Stretch {
  constructor(scorer, start) {
    Object.assign(this, { scorer, start });
    this.windowEnd = start; // of the last window
    this.lastValues = null; // log-probabilities of the last window
    this.recent = []; // windows of full length: [the cell that they begin with, score]
    this.covered = start; // the end of the last window that counts for segments
    this.numCells = 0;
    this.undecided = []; // cells: [their end, score]
    this.path = new Path();
    this.run = new Run(start);
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
    yield* this.addDecided(this.path.finish());
    yield this.run.segment(this.scorer);
  }

  // The score of a window that counts for segments.
  score(begin, end) {
    const newSamples = end - this.covered;
    this.covered = end;
    return this.scorer.score(begin, end, newSamples);
  }

  update(begin, end, score) {
    const { values } = score;
    const smoothed = this.lastValues ? mean([this.lastValues, values]) : values;
    this.lastValues = values;
    const probabilities = this.scorer.probabilities(smoothed);
    const times = { start_s: begin / SAMPLE_RATE, end_s: end / SAMPLE_RATE };
    const optional = { ...voiceField(score), ...dimensionFields(probabilities) };
    return { event: 'update', ...times, probabilities, ...optional };
  }

  // Add the next cell, which ends at this sample. All windows that cover it are known.
  *addCell(end, lastWindow = []) {
    this.recent = this.recent.filter(([cell]) => cell > this.numCells - CELLS_PER_WINDOW);
    const score = meanScore([...this.recent.map(([, recent]) => recent), ...lastWindow]);
    const begin = this.start + this.numCells * HOP;
    this.numCells++;
    this.undecided.push([end, score]);
    yield* this.addDecided(this.path.push(score.values.map((value) => value * ((end - begin) / HOP))));
  }

  // The emotions of the oldest undecided cells are now known.
  *addDecided(emotions) {
    for (const emotion of emotions) {
      const [end, score] = this.undecided.shift();
      if (this.run.emotion !== null && this.run.emotion !== emotion) {
        yield this.run.segment(this.scorer);
        this.run = new Run(this.run.end);
      }
      this.run.extend(emotion, end, score);
    }
  }
}

// Consecutive cells of one emotion.
class Run {
  constructor(begin) {
    Object.assign(this, { begin, end: begin, emotion: null, sum: null, voiceUtterances: null });
  }

  extend(emotion, end, { values, voiceUtterances }) {
    this.sum = values.map((value, at) => value * (end - this.end) + (this.sum ? this.sum[at] : 0));
    Object.assign(this, { emotion, end, voiceUtterances });
  }

  segment(scorer) {
    const values = this.sum.map((value) => value / (this.end - this.begin));
    const score = { values, voiceUtterances: this.voiceUtterances }; // with the voice of the last cell
    return { event: 'segment', ...scorer.segment(this.begin, this.end, score, this.emotion) };
  }
}

// The path of emotions through the cells of a stretch with the highest score: the sum of its
// log-probabilities minus CHANGE_COST for each change, where each emotion lasts at least MIN_RUN_CELLS cells
// (Viterbi's algorithm).
//
// A state is the pair (how many cells the emotion has lasted, at most MIN_RUN_CELLS; emotion), as one index.
export class Path {
  constructor() {
    this.scores = null; // of the best path that ends in each state
    this.back = []; // for each undecided cell: state -> state of the cell before
  }

  // Add a cell with its log-probabilities. Returns the emotions that are now decided, in order.
  push(logProbabilities) {
    const num = logProbabilities.length;
    const first = (MIN_RUN_CELLS - 1) * num; // of the states whose emotion may change
    if (this.scores === null) {
      const start = (state) => (state < num ? logProbabilities[state] : -Infinity);
      this.scores = Array.from({ length: MIN_RUN_CELLS * num }, (_, state) => start(state));
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
    const scores = from.map((state, at) => before[state] - (at < num ? CHANGE_COST : 0));
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

  // The emotions of the remaining cells, in order.
  finish() {
    if (this.scores === null || this.back.length === 0) return [];
    const num = this.scores.length / MIN_RUN_CELLS;
    const first = this.scores.length - num;
    const longEnough = this.scores.slice(first); // none of them is finite if the whole stretch is shorter
    const state = longEnough.some(Number.isFinite) ? first + argmax(longEnough) : argmax(this.scores);
    return this.traceBack(state, this.back.length - 1, num);
  }

  decided(num) {
    let states = [...this.scores.keys()].filter((state) => Number.isFinite(this.scores[state]));
    for (let cell = this.back.length - 1; cell > 0; cell--) {
      if (states.length === 1) return this.traceBack(states[0], cell, num);
      states = [...new Set(states.map((state) => this.back[cell][state]))];
    }
    if (states.length === 1) return this.traceBack(states[0], 0, num);
    if (this.back.length <= MAX_UNDECIDED_CELLS) return [];
    // Too many cells are undecided: keep the best path, and drop the paths that began otherwise.
    const later = this.back.slice(1);
    const oldest = this.scores.map((_, state) => later.reduceRight((at, back) => back[at], state));
    const first = oldest[argmax(this.scores)];
    this.scores = this.scores.map((score, state) => (oldest[state] === first ? score : -Infinity));
    return this.traceBack(first, 0, num);
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
