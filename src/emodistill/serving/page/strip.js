// The picture of a recording: its waveform, with a lane for each channel, the segments below it, and the
// whole recording in small. wavesurfer.js and its plugins draw, zoom and scroll.

import {
  cssColour, dimensionNames, drawWave, element, formatClock, laneName, nameOf, percent, shortTimes, textColourOn,
  UNSURE_COLOUR,
} from './view.js';
import Minimap from './vendor/wavesurfer-minimap.esm.js';
import Timeline from './vendor/wavesurfer-timeline.esm.js';
import WaveSurfer from './vendor/wavesurfer.esm.js';
import Zoom from './vendor/wavesurfer-zoom.esm.js';

const START_PX_PER_S = 8; // at least, before the user zooms: a long recording shows its first part
const MAX_PX_PER_S = 200;
const ZOOM_STEP = 2;
const WAVE_PX = 128; // the height of all lanes together
const MIN_LANE_PX = 72;
const MINIMAP_PX = 36;
const LABEL_STEPS_S = [1, 5, 10, 30, 60]; // between times on the axis
const LABEL_PX = 60; // at least, between them

const find = (id) => document.getElementById(id);

// The segment whose emotion fills most of the time between two positions in seconds; undefined without one.
// `lanes` are lists of segments in order of time.
export const mainSegment = (lanes, from, to) => {
  const found = new Map(); // emotion -> [seconds, its first segment]
  for (const segments of lanes) {
    for (let at = firstEndingAfter(segments, from); segments[at]?.start_s < to; at++) {
      const { start_s, end_s, emotion } = segments[at];
      const [seconds, first] = found.get(emotion) ?? [0, segments[at]];
      found.set(emotion, [seconds + Math.min(end_s, to) - Math.max(start_s, from), first]);
    }
  }
  return [...found.values()].sort((a, b) => b[0] - a[0])[0]?.[1];
};

// The index of the first segment that ends after a position. Segments of one lane do not overlap.
const firstEndingAfter = (segments, seconds) => {
  let [low, high] = [0, segments.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (segments[middle].end_s > seconds) high = middle;
    else low = middle + 1;
  }
  return low;
};

const SVG = 'http://www.w3.org/2000/svg';

// An empty picture of dimensions over time. The details of a segment have the numbers.
const curves = (names) => {
  const picture = document.createElementNS(SVG, 'svg');
  picture.setAttribute('viewBox', '0 -0.04 1 1.08'); // higher than 0 to 1, so that a line there is whole
  picture.setAttribute('preserveAspectRatio', 'none');
  picture.setAttribute('aria-hidden', 'true');
  for (const name of names) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', name);
    picture.append(path);
  }
  return picture;
};

// Draw a line for each segment between two positions in seconds: 0 is at the bottom, 1 at the top.
const drawCurves = (picture, segments, start, end) => {
  const rated = segments.filter(({ dimensions }) => dimensions);
  picture.toggleAttribute('hidden', rated.length === 0);
  const x = (seconds) => ((seconds - start) / (end - start)).toFixed(5);
  dimensionNames(rated).forEach((name, at) => {
    const lines = rated.map(({ start_s, end_s, dimensions }) =>
      `M${x(start_s)} ${(1 - dimensions[name]).toFixed(4)}H${x(end_s)}`);
    picture.children[at].setAttribute('d', lines.join(''));
  });
};

export class Strip {
  // `onSelect` gets the index of a segment, or null; `onPlay` gets the index of one; `onTime` gets seconds.
  constructor({ onSelect, onPlay, onTime }) {
    Object.assign(this, { onSelect, onPlay, onTime });
    this.selected = null;
    this.lanes = [];
    // Without this, the wheel would zoom where the user wants to scroll the page.
    const keepScrolling = (event) => event.ctrlKey || event.metaKey || event.stopPropagation();
    find('wave').addEventListener('wheel', keepScrolling, { capture: true, passive: true });
    find('segments').addEventListener('keydown', (event) => this.moveByKey(event));
    find('zoom-in').onclick = () => this.zoom(ZOOM_STEP);
    find('zoom-out').onclick = () => this.zoom(1 / ZOOM_STEP);
    find('zoom-all').onclick = () => this.zoom(0);
    find('play').onclick = () => this.wave?.playPause();
  }

  // Show the segments of a timeline, before its sound is decoded.
  showTimeline(timeline, colours) {
    this.close();
    Object.assign(this, { timeline, colours, selected: null });
    this.isSplit = timeline.segments.some(({ channel }) => channel !== undefined);
    this.setLanes(1);
    this.drawSegments(0, timeline.duration_s);
  }

  // Show the waveform too. `peaks` has an array for each channel, `sound` (Blob) can be played.
  async showSound(sound, peaks) {
    const { timeline } = this;
    this.wave?.destroy();
    this.setLanes(peaks.length);
    const heights = Math.max(MIN_LANE_PX, WAVE_PX / peaks.length);
    const loudest = peaks.reduce((top, lane) => lane.reduce((a, b) => Math.max(a, b), top), 1e-4);
    const colours = this.lanes.map((lane) => this.colourBetween([lane]));
    const draw = (colour) => drawWave(colour, loudest, (left) => this.secondsAt(left));
    const all = this.colourBetween(this.isSplit ? this.lanes : this.lanes.slice(0, 1));
    const inMinimap = (left) => (left / find('minimap').clientWidth) * timeline.duration_s;
    const lanes = colours.map((colour) => ({ renderFunction: draw(colour) }));
    this.wave = WaveSurfer.create({
      container: find('wave'), height: heights, cursorColor: cssColour('--ink'), cursorWidth: 2,
      progressColor: 'transparent', minPxPerSec: this.startZoom(), renderFunction: draw(colours[0]),
      splitChannels: lanes.length > 1 ? lanes : undefined,
      plugins: [
        Zoom.create({ maxZoom: MAX_PX_PER_S, exponentialZooming: true }),
        Timeline.create({
          height: 18, formatTimeCallback: (seconds) => this.timeLabel(seconds), secondaryLabelInterval: 1,
          secondaryLabelOpacity: 0.7,
        }),
        Minimap.create({
          container: find('minimap'), height: MINIMAP_PX, overlayColor: cssColour('--overlay'),
          progressColor: 'transparent', cursorColor: cssColour('--ink'), dragToSeek: true,
          renderFunction: drawWave(all, loudest, inMinimap),
        }),
      ],
    });
    const { wave } = this;
    const showVisible = () => wave === this.wave && this.drawVisible();
    wave.on('scroll', showVisible);
    wave.on('redraw', showVisible);
    wave.on('play', () => (find('play').textContent = 'Pause'));
    wave.on('pause', () => (find('play').textContent = 'Play'));
    wave.on('finish', () => (find('play').textContent = 'Play'));
    wave.on('timeupdate', (now) => this.onTime(now));
    wave.on('click', (x, y) => this.onSelect(this.indexAt(x * timeline.duration_s, y)));
    await wave.loadBlob(sound, peaks, timeline.duration_s);
    if (wave !== this.wave) return;
    for (const id of ['play', 'zoom-in', 'zoom-out', 'zoom-all']) find(id).disabled = false;
    this.drawVisible();
  }

  setLanes(number) {
    const { segments } = this.timeline;
    const channels = this.isSplit ? Math.max(number, ...segments.map(({ channel }) => channel + 1)) : number;
    const ofLane = (lane) =>
      this.isSplit ? segments.filter(({ channel }) => channel === lane) : segments;
    this.lanes = Array.from({ length: channels }, (_, lane) => ({
      segments: ofLane(lane), name: laneName(ofLane(lane), lane, this.isSplit),
    }));
    const label = ({ name }) => element('li', {}, element('span', { textContent: name }));
    find('lane-names').replaceChildren(...(channels > 1 ? this.lanes.map(label) : []));
    const names = dimensionNames(segments);
    find('segments').replaceChildren(
      ...(this.isSplit ? this.lanes : this.lanes.slice(0, 1)).map(() =>
        element('div', {}, element('div', { className: 'buttons-in-time' }), curves(names)),
      ),
    );
    find('segments').hidden = segments.length === 0;
    find('curves-legend').hidden = names.length === 0;
    const legend = names.map((name) => element('span', {}, element('i', { className: name }), name));
    find('curves-legend').replaceChildren(...legend, ' 0 to 1');
  }

  colourBetween(lanes) {
    const all = lanes.map(({ segments }) => segments);
    return (from, to) => {
      const segment = mainSegment(all, from, to);
      return segment ? this.colourOf(segment) : cssColour('--wave');
    };
  }

  colourOf({ emotion }) {
    return emotion ? this.colours[emotion] : UNSURE_COLOUR;
  }

  // Pixels per second at first; 0 shows the whole recording.
  startZoom() {
    const whole = find('wave').clientWidth / this.timeline.duration_s;
    return whole < START_PX_PER_S ? START_PX_PER_S : 0;
  }

  // Multiply the pixels per second; 0 shows the whole recording. The middle stays where it is.
  zoom(factor) {
    if (!this.wave) return;
    const width = find('wave').clientWidth;
    const whole = width / this.timeline.duration_s;
    const before = this.wave.getWrapper().clientWidth / this.timeline.duration_s;
    const middle = (this.wave.getScroll() + width / 2) / before;
    const after = Math.min(MAX_PX_PER_S, Math.max(whole, before * factor));
    this.wave.zoom(after <= whole ? 0 : after);
    this.wave.setScroll(middle * after - width / 2);
  }

  // The text of a notch of the time axis; empty where it would be too close to the one before it.
  timeLabel(seconds) {
    const pxPerS = this.wave.getWrapper().clientWidth / this.timeline.duration_s;
    const step = LABEL_STEPS_S.find((step) => step * pxPerS >= LABEL_PX) ?? 60;
    return seconds % step === 0 ? formatClock(seconds) : '';
  }

  // The position in seconds of a pixel of the waveform.
  secondsAt(left) {
    return (left / this.wave.getWrapper().clientWidth) * this.timeline.duration_s;
  }

  drawVisible() {
    const { duration_s } = this.timeline;
    const width = Math.max(1, this.wave.getWrapper().clientWidth);
    const start = (this.wave.getScroll() / width) * duration_s;
    this.drawSegments(start, Math.min(duration_s, start + (this.wave.getWidth() / width) * duration_s));
  }

  // Show the segments between two positions in seconds, each as a button.
  drawSegments(start, end) {
    const focused = document.activeElement?.dataset?.index;
    const hadFocus = focused !== undefined && find('segments').contains(document.activeElement);
    [...find('segments').children].forEach((row, lane) => {
      const { segments } = this.lanes[lane];
      const [buttons, visible] = [[], []];
      for (let at = firstEndingAfter(segments, start); at < segments.length; at++) {
        if (segments[at].start_s >= end) break;
        buttons.push(this.segmentButton(segments[at], start, end));
        visible.push(segments[at]);
      }
      row.firstChild.replaceChildren(...buttons);
      drawCurves(row.lastChild, visible, start, end);
    });
    const buttons = find('segments').querySelectorAll('button');
    if (buttons.length && !find('segments').querySelector('[tabindex="0"]')) buttons[0].tabIndex = 0;
    if (hadFocus) this.buttonOf(Number(focused))?.focus({ preventScroll: true });
  }

  segmentButton(segment, start, end) {
    const index = this.timeline.segments.indexOf(segment);
    const isSelected = index === this.selected;
    const button = element('button', { type: 'button', ariaPressed: String(isSelected) });
    button.tabIndex = isSelected ? 0 : -1;
    button.dataset.index = index;
    button.append(element('span', { textContent: nameOf(segment) }));
    button.title = `${nameOf(segment)}, ${percent(segment.confidence)}, ${shortTimes(segment)}`;
    const speaker = segment.speaker ? `${segment.speaker}, ` : '';
    button.setAttribute('aria-label', `${speaker}${button.title}: play`);
    const share = (seconds) => Math.min(1, Math.max(0, (seconds - start) / (end - start)));
    button.style.left = `${100 * share(segment.start_s)}%`;
    button.style.width = `${100 * (share(segment.end_s) - share(segment.start_s))}%`;
    button.style.background = this.colourOf(segment);
    button.style.color = textColourOn(this.colourOf(segment));
    button.onclick = () => this.onPlay(index);
    return button;
  }

  buttonOf(index) {
    return find('segments').querySelector(`[data-index="${index}"]`);
  }

  // The index of the segment at a position: seconds, and the share of the height from the top.
  indexAt(seconds, height) {
    const lane = this.isSplit ? Math.min(this.lanes.length - 1, Math.floor(height * this.lanes.length)) : 0;
    const segment = mainSegment([this.lanes[lane].segments], seconds, seconds + 1e-3);
    return segment ? this.timeline.segments.indexOf(segment) : null;
  }

  // Mark a segment as selected, and scroll to it. `index` may be null.
  select(index) {
    this.selected = index;
    const segment = this.timeline.segments[index];
    if (this.wave && segment && !this.buttonOf(index)) {
      const pxPerS = this.wave.getWrapper().clientWidth / this.timeline.duration_s;
      this.wave.setScroll(segment.start_s * pxPerS - find('wave').clientWidth / 4);
      this.drawVisible();
    }
    for (const button of find('segments').querySelectorAll('button')) {
      const isSelected = Number(button.dataset.index) === index;
      button.ariaPressed = String(isSelected);
      if (index !== null) button.tabIndex = isSelected ? 0 : -1;
    }
  }

  moveByKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const index = Number(event.target.dataset.index) + step;
    if (!step || !this.timeline.segments[index]) return;
    event.preventDefault();
    this.onSelect(index);
    this.buttonOf(index)?.focus({ preventScroll: true });
  }

  play({ start_s, end_s }) {
    this.wave?.play(start_s, end_s);
  }

  close() {
    this.wave?.destroy();
    this.wave = null;
    find('play').textContent = 'Play';
    for (const id of ['play', 'zoom-in', 'zoom-out', 'zoom-all']) find(id).disabled = true;
    find('minimap').replaceChildren();
    find('lane-names').replaceChildren();
  }
}
