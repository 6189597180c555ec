// The strip while somebody speaks: the last thirty seconds, loudness in the colour of the emotion.

import { bars, chip, cssColour, percent, time, UNSURE } from './view.js';

const SHOWN_S = 30;
const STEP_S = 0.05;
const DRAWN_MS = 80;

export class Live {
  constructor(root, colours) {
    this.find = (name) => root.querySelector(name);
    this.colours = colours;
    this.canvas = this.find('#strip');
    this.levels = []; // one peak for each step
    this.spans = []; // { start, end, colour }
    this.part = { peak: 0, left: 0 };
    this.seconds = 0;
    this.find('#live-emotion').replaceChildren('Say something …');
    this.find('#live-bars').replaceChildren();
    this.drawing = setInterval(() => this.draw(), DRAWN_MS);
  }

  hear(samples, rate) {
    const step = Math.round(STEP_S * rate);
    for (const value of samples) {
      this.part.peak = Math.max(this.part.peak, Math.abs(value));
      if (++this.part.left >= step) {
        this.levels.push(this.part.peak);
        this.part = { peak: 0, left: 0 };
      }
    }
    this.seconds += samples.length / rate;
  }

  // An event of the stream; gives what a screen reader should say, or nothing.
  take(event) {
    if (event.event === 'update') {
      const [best, share] = Object.entries(event.probabilities).sort((a, b) => b[1] - a[1])[0];
      this.paint(Math.max(event.start_s, event.end_s - 0.5), event.end_s, this.colours[best]);
      this.find('#live-emotion').replaceChildren(chip(best, this.colours[best]), ` ${percent(share)}`);
      this.find('#live-bars').replaceChildren(bars(event.probabilities, this.colours, 'The last two seconds'));
    }
    if (event.event === 'segment') {
      this.paint(event.start_s, event.end_s, event.emotion ? this.colours[event.emotion] : UNSURE);
      return `${event.emotion ?? 'unsure'}, ${percent(event.confidence)}`;
    }
    return null;
  }

  paint(start, end, colour) {
    this.spans = this.spans.filter((span) => span.end > this.seconds - SHOWN_S && !(span.start >= start && span.end <= end));
    this.spans.push({ start, end, colour });
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    Object.assign(this.canvas, { width: clientWidth * ratio, height: clientHeight * ratio }); // which clears it
    const context = this.canvas.getContext('2d');
    const quiet = cssColour('--wave');
    const num = SHOWN_S / STEP_S;
    const wide = this.canvas.width / num;
    const first = Math.max(0, this.levels.length - num);
    for (let at = first; at < this.levels.length; at++) {
      const when = at * STEP_S;
      const span = this.spans.findLast(({ start, end }) => start <= when && when < end);
      const tall = Math.max(2 * ratio, Math.min(1, 1.6 * Math.sqrt(this.levels[at])) * this.canvas.height * 0.92);
      context.fillStyle = span?.colour ?? quiet;
      context.fillRect((at - first) * wide, (this.canvas.height - tall) / 2, Math.max(1, wide * 0.72), tall);
    }
    this.find('#live-clock').textContent = time(this.seconds);
  }

  close() {
    clearInterval(this.drawing);
  }
}
