// From a stretch of speech to its segments, hop by hop: `emodistill/segments.py` in the browser.
//
//   windows that end at every hop → log-probabilities → mean over the windows that cover a cell of one hop
//   → the course of emotions with the most evidence for its price → segments
//
// All positions are samples at 16 kHz from the beginning of the audio.

import { best } from './recognizer.js';
import settings from './settings.js';
import { joined } from './speech_activity.js';

const { SAMPLE_RATE } = settings.waveform;
const { HOP_S, WINDOW_S, CHANGE_COST, SHORTEST_RUN, LONGEST_DOUBT, FLOOR } = settings.segmentation;
const HOP = Math.round(HOP_S * SAMPLE_RATE);
const WINDOW = Math.round(WINDOW_S * SAMPLE_RATE);
const PER_WINDOW = WINDOW / HOP; // cells

const mean = (rows) => rows[0].map((_, at) => rows.reduce((sum, row) => sum + row[at], 0) / rows.length);

// The model over the recent past of one stream: log-probabilities of windows of it.
export class Judge {
  constructor(recognizer) {
    this.recognizer = recognizer;
    this.numSamples = 0; // so far
    this.blocks = []; // [where it begins, samples]
  }

  append(block) {
    if (block.length === 0) return;
    this.blocks.push([this.numSamples, block]);
    this.numSamples += block.length;
  }

  // No window begins before this sample any more.
  forget(before) {
    while (this.blocks.length && this.blocks[0][0] + this.blocks[0][1].length <= before) this.blocks.shift();
  }

  between(begin, end) {
    const parts = this.blocks.filter(([at, block]) => at < end && begin < at + block.length);
    return joined(...parts.map(([at, block]) => block.subarray(Math.max(0, begin - at), end - at)));
  }

  async hear(begin, end) {
    const values = await this.recognizer.probabilities(this.between(begin, end));
    return values.map((value) => Math.log(Math.max(value, FLOOR)));
  }

  probabilities(logProbabilities) {
    const top = Math.max(...logProbabilities);
    const values = logProbabilities.map((value) => Math.exp(value - top));
    const sum = values.reduce((total, value) => total + value, 0);
    return this.recognizer.named(values.map((value) => value / sum));
  }

  segment(begin, end, logProbabilities) {
    const probabilities = this.probabilities(logProbabilities);
    const emotion = this.recognizer.emotions[best(Object.values(probabilities))];
    return { start_s: begin / SAMPLE_RATE, end_s: end / SAMPLE_RATE, emotion, confidence: probabilities[emotion], probabilities };
  }
}

// Windows, cells and segments of one stretch of speech, as events { event: 'update' | 'segment', … }.
export class Stretch {
  constructor(judge, start) {
    Object.assign(this, { judge, start, windowEnd: start, recent: [], before: null, numCells: 0, undecided: [] });
    this.path = new Path();
    this.run = new Run(start);
  }

  // The first sample that a window may still ask for, where the speech goes on after this one.
  needs(until) {
    return Math.max(this.start, until - WINDOW);
  }

  // The speech goes on at least until this sample.
  async *reach(until) {
    while (this.windowEnd + HOP <= until) {
      this.windowEnd += HOP;
      const begin = Math.max(this.start, this.windowEnd - WINDOW);
      const values = await this.judge.hear(begin, this.windowEnd);
      yield this.update(begin, this.windowEnd, values);
      if (this.windowEnd - begin === WINDOW) {
        this.recent.push([this.numCells, values]);
        yield* this.cell(this.start + (this.numCells + 1) * HOP);
      }
    }
  }

  // The speech ended at this sample.
  async *close(end) {
    const final = [];
    if (this.windowEnd !== end || end - this.start < WINDOW) {
      const begin = Math.max(this.start, end - WINDOW);
      final.push(await this.judge.hear(begin, end));
      yield this.update(begin, end, final[0]);
    }
    for (let begin = this.start + this.numCells * HOP; begin < end; begin += HOP) yield* this.cell(Math.min(begin + HOP, end), final);
    yield* this.decide(this.path.finish());
    yield this.run.close(this.judge);
  }

  update(begin, end, values) {
    const smoothed = this.before ? mean([this.before, values]) : values;
    this.before = values;
    return { event: 'update', start_s: begin / SAMPLE_RATE, end_s: end / SAMPLE_RATE, probabilities: this.judge.probabilities(smoothed) };
  }

  // The next cell, which ends here: all windows that cover it have been judged.
  *cell(end, final = []) {
    this.recent = this.recent.filter(([cell]) => cell > this.numCells - PER_WINDOW);
    const values = mean([...this.recent.map(([, heard]) => heard), ...final]);
    const begin = this.start + this.numCells * HOP;
    this.numCells++;
    this.undecided.push([end, values]);
    yield* this.decide(this.path.push(values.map((value) => value * ((end - begin) / HOP))));
  }

  // The oldest cells are now known to be of these emotions.
  *decide(emotions) {
    for (const emotion of emotions) {
      const [end, values] = this.undecided.shift();
      if (this.run.emotion !== null && this.run.emotion !== emotion) {
        yield this.run.close(this.judge);
        this.run = new Run(this.run.end);
      }
      this.run.extend(emotion, end, values);
    }
  }
}

// Cells of one emotion, one after another.
class Run {
  constructor(begin) {
    Object.assign(this, { begin, end: begin, emotion: null, sum: null });
  }

  extend(emotion, end, values) {
    this.sum = values.map((value, at) => value * (end - this.end) + (this.sum ? this.sum[at] : 0));
    Object.assign(this, { emotion, end });
  }

  close(judge) {
    return { event: 'segment', ...judge.segment(this.begin, this.end, this.sum.map((value) => value / (this.end - this.begin))) };
  }
}

// The course of emotions through the cells of a stretch that has the most evidence for its price: `_Path` in Python.
// A state is (how many cells the emotion has lasted, at most SHORTEST_RUN; emotion), as one index.
export class Path {
  constructor() {
    this.scores = null; // of the best course that ends in each state
    this.back = []; // of each undecided cell: state -> state of the cell before
  }

  // Take in a cell by its log-probabilities; the emotions now decided, in order.
  push(gain) {
    const num = gain.length;
    const first = (SHORTEST_RUN - 1) * num; // of the states that have lasted long enough
    if (this.scores === null) {
      this.scores = Array.from({ length: SHORTEST_RUN * num }, (_, state) => (state < num ? gain[state] : -Infinity));
      this.back.push(this.scores.map(() => 0)); // never followed
      return this.decided(num);
    }
    const before = this.scores;
    const lasted = before.slice(first);
    // Another emotion begins after the best that has lasted long enough, itself excepted.
    const top = best(lasted);
    const other = best(lasted.map((value, at) => (at === top ? -Infinity : value)));
    const from = before.map((_, state) => (state >= num ? state - num : first + (state === top ? other : top)));
    const scores = from.map((state, at) => before[state] - (at < num ? CHANGE_COST : 0));
    if (top === other) scores[top] = -Infinity; // no other has lasted long enough
    for (let state = first; state < before.length; state++) {
      if (before[state] < scores[state]) continue;
      scores[state] = before[state];
      from[state] = state;
    }
    this.scores = scores.map((score, state) => score + gain[state % num]);
    this.back.push(from);
    return this.decided(num);
  }

  // The emotions of the cells that are left, in order.
  finish() {
    if (this.scores === null || this.back.length === 0) return [];
    const num = this.scores.length / SHORTEST_RUN;
    const first = this.scores.length - num;
    const whole = this.scores.slice(first); // an emotion may be shorter only where the whole stretch is
    const state = whole.some(Number.isFinite) ? first + best(whole) : best(this.scores);
    return this.traced(state, this.back.length - 1, num);
  }

  decided(num) {
    let states = [...this.scores.keys()].filter((state) => Number.isFinite(this.scores[state]));
    for (let cell = this.back.length - 1; cell > 0; cell--) {
      if (states.length === 1) return this.traced(states[0], cell, num);
      states = [...new Set(states.map((state) => this.back[cell][state]))];
    }
    if (states.length === 1) return this.traced(states[0], 0, num);
    if (this.back.length <= LONGEST_DOUBT) return [];
    // Take the course that is best now, and give up those that began otherwise.
    const oldest = this.scores.map((_, state) => this.back.slice(1).reduceRight((at, back) => back[at], state));
    const first = oldest[best(this.scores)];
    this.scores = this.scores.map((score, state) => (oldest[state] === first ? score : -Infinity));
    return this.traced(first, 0, num);
  }

  // The emotions up to a cell whose state is known; these cells are let go.
  traced(state, cell, num) {
    const emotions = [state % num];
    for (let at = cell; at > 0; at--) {
      state = this.back[at][state];
      emotions.push(state % num);
    }
    this.back.splice(0, cell + 1);
    return emotions.reverse();
  }
}
