// The live view of the microphone: the loudness of the last 30 seconds, in the colours of the emotions.

import { bars, chip, cssColour, formatTime, NO_ANSWER, percent, UNSURE_COLOUR } from './view.js';

const SHOWN_S = 30;
const STEP_S = 0.05; // one bar
const REDRAW_MS = 80;
const UPDATE_S = 0.5; // an update colours this much before the end of its window

export class LiveView {
  constructor(root, colours) {
    this.find = (selector) => root.querySelector(selector);
    this.colours = colours;
    this.newest = 0; // the end of the newest speech with an emotion, in seconds
    this.shown = null; // its emotion
    this.canvas = this.find('#strip');
    this.peaks = []; // one for each step
    this.spans = []; // { start, end, colour }, in seconds
    this.step = { peak: 0, numSamples: 0 }; // the unfinished step
    this.seconds = 0;
    this.find('#live-emotion').replaceChildren('Say something …');
    this.find('#live-bars').replaceChildren();
    this.timer = setInterval(() => this.draw(), REDRAW_MS);
  }

  addSamples(samples, rate) {
    const stepSamples = Math.round(STEP_S * rate);
    for (const value of samples) {
      this.step.peak = Math.max(this.step.peak, Math.abs(value));
      if (++this.step.numSamples >= stepSamples) {
        this.peaks.push(this.step.peak);
        this.step = { peak: 0, numSamples: 0 };
      }
    }
    this.seconds += samples.length / rate;
  }

  // Show an event of the stream. Returns a text for screen readers where the emotion changes, else null.
  //
  // Strip, chip and text have the same emotion for the newest speech: that of the latest update, or of a
  // segment that reaches as far. Both are smoothed, so the emotion does not jump.
  showEvent(event) {
    if (event.event !== 'update' && event.event !== 'segment') return null;
    const { start_s, end_s, probabilities } = event;
    const emotion = event.emotion ?? null; // the server leaves it out of an update that is not sure
    const share = emotion ? probabilities[emotion] : Math.max(...Object.values(probabilities));
    const colour = emotion ? this.colours[emotion] : UNSURE_COLOUR;
    const start = event.event === 'segment' ? start_s : Math.max(start_s, end_s - UPDATE_S);
    this.addSpan(start, end_s, colour);
    if (end_s < this.newest) return null; // a segment of earlier speech
    this.newest = end_s;
    const name = emotion ?? NO_ANSWER;
    this.find('#live-emotion').replaceChildren(chip(name, colour), ` ${percent(share)}`);
    const caption = event.event === 'segment' ? 'The last segment' : 'The last two seconds';
    this.find('#live-bars').replaceChildren(bars(probabilities, this.colours, caption));
    if (name === this.shown) return null;
    this.shown = name;
    return `Now: ${name}`;
  }

  // Colour a part of the strip. A segment replaces the updates within it.
  addSpan(start, end, colour) {
    const isVisible = (span) => span.end > this.seconds - SHOWN_S;
    const isReplaced = (span) => span.start >= start && span.end <= end;
    this.spans = this.spans.filter((span) => isVisible(span) && !isReplaced(span));
    this.spans.push({ start, end, colour });
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    // Setting the size also clears the canvas.
    Object.assign(this.canvas, { width: clientWidth * ratio, height: clientHeight * ratio });
    const context = this.canvas.getContext('2d');
    const defaultColour = cssColour('--wave');
    const numSteps = SHOWN_S / STEP_S;
    const stepWidth = this.canvas.width / numSteps;
    const first = Math.max(0, this.peaks.length - numSteps);
    for (let at = first; at < this.peaks.length; at++) {
      const time = at * STEP_S;
      const span = this.spans.findLast(({ start, end }) => start <= time && time < end);
      const share = Math.min(1, 1.6 * Math.sqrt(this.peaks[at])); // the root makes quiet speech visible
      const barHeight = Math.max(2 * ratio, share * this.canvas.height * 0.92);
      context.fillStyle = span?.colour ?? defaultColour;
      const [x, y] = [(at - first) * stepWidth, (this.canvas.height - barHeight) / 2];
      context.fillRect(x, y, Math.max(1, stepWidth * 0.72), barHeight);
    }
    this.find('#live-clock').textContent = formatTime(this.seconds);
  }

  close() {
    clearInterval(this.timer);
  }
}
