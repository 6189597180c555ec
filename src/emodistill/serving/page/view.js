// Elements that both pages show: emotions in their colours, bars of probabilities, and a waveform.

export const UNSURE_COLOUR = '#505050';

export const element = (tag, properties = {}, ...children) => {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
};

export const percent = (share) => `${Math.round(100 * share)} %`;

export const formatTime = (seconds) => {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')} min`;
};

// The text colour, dark or white, with more contrast to a background colour (relative luminance of WCAG).
export const textColourOn = (background) => {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const value = parseInt(background.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.19 ? '#10141d' : '#ffffff';
};

export const swatch = (colour) => {
  const square = element('i', { ariaHidden: 'true' });
  square.style.background = colour;
  return square;
};

export const chip = (text, colour) => {
  const created = element('span', { className: 'chip', textContent: text });
  created.style.background = colour;
  created.style.color = textColourOn(colour);
  return created;
};

// Bars of probabilities, as a table so that screen readers can read them.
export const bars = (probabilities, colours, caption) => {
  const entries = Object.entries(probabilities);
  const highest = Math.max(...entries.map(([, value]) => value));
  const heading = element('caption', { className: 'hidden-text', textContent: caption });
  const table = element('table', { className: 'bars' }, heading);
  for (const [emotion, value] of entries) {
    const fill = element('i');
    fill.style.width = `${100 * value}%`;
    fill.style.background = colours[emotion];
    table.append(
      element(
        'tr', { className: value === highest ? 'best' : '' },
        element('th', { scope: 'row', textContent: emotion }),
        element('td', { ariaHidden: 'true' }, element('div', { className: 'bar' }, fill)),
        element('td', { textContent: percent(value) }),
      ),
    );
  }
  return table;
};

const TEACHER_TITLES = {
  prosodic: 'From the tone of voice (prosodic teacher)',
  linguistic: 'From the words (linguistic teacher)',
  acoustic: 'From the sound (acoustic teacher)',
};

// The bars of each teacher. The model estimates what its teachers would predict.
export const teacherViews = (teachers, colours) =>
  Object.entries(teachers ?? {}).flatMap(([name, probabilities]) => [
    element('h3', { textContent: TEACHER_TITLES[name] ?? name }),
    bars(probabilities, colours, `Estimated prediction of the ${name} teacher`),
  ]);

// Why there is no emotion.
export const REASONS = {
  silence: 'The recording is silent.',
  no_speech: 'There is no speech in the recording.',
  too_short: 'The recording is too short.',
};

// One sentence about a prediction, as nodes: its emotion, or why there is none.
export const headline = (row, colours) => {
  if (row.error) return [row.error];
  if (row.emotion) {
    const confidence = `, with a confidence of ${percent(row.confidence)}`;
    return ['Whole recording: ', chip(row.emotion, colours[row.emotion]), confidence];
  }
  if (row.reason !== 'low_confidence') return [REASONS[row.reason] ?? 'This recording has no emotion.'];
  const [best] = Object.entries(row.probabilities).sort((a, b) => b[1] - a[1])[0];
  const explanation = ` (${best} with ${percent(row.confidence)} is below your minimum confidence)`;
  return ['Whole recording: ', chip('unsure', UNSURE_COLOUR), explanation];
};

// One sentence about a timeline that was compared with the voice's usual, as nodes.
export const comparedHeadline = ({ segments, summary }, colours) => {
  const spoken = segments.reduce((sum, { start_s, end_s }) => sum + end_s - start_s, 0);
  const [[most, seconds]] = Object.entries(summary).sort((a, b) => b[1] - a[1]);
  const known = Math.max(...segments.map(({ voice_utterances }) => voice_utterances));
  const begin = `Compared with this voice's usual (${known} ${known === 1 ? 'utterance' : 'utterances'}): `;
  if (seconds === 0) return [begin, chip('unsure', UNSURE_COLOUR)];
  return [begin, chip(most, colours[most]), ` in ${percent(seconds / spoken)} of the speech.`];
};

// A drawing function for wavesurfer.js: bars of the waveform, each in the colour of its segment. A bar shows
// the louder channel, because each speaker of a call may have a channel. `colourAt` takes a position as a
// share of the recording's length.
export const drawWave = (colourAt) => (channels, context) => {
  const { width, height } = context.canvas;
  const ratio = window.devicePixelRatio || 1;
  const step = Math.max(3, Math.round(3 * ratio));
  const peakOf = (samples, first, last) => {
    let peak = 0;
    for (let at = first; at < last; at++) peak = Math.max(peak, Math.abs(samples[at]));
    return peak;
  };
  const peakBetween = (first, last) => Math.max(...channels.map((samples) => peakOf(samples, first, last)));
  const { length } = channels[0];
  const loudest = Math.max(1e-4, peakBetween(0, length));
  for (let x = 0; x < width; x += step) {
    const first = Math.floor((x / width) * length);
    const last = Math.max(first + 1, Math.floor(((x + step) / width) * length));
    const peak = peakBetween(first, last);
    const barHeight = Math.max(2 * ratio, (peak / loudest) * height * 0.92);
    context.fillStyle = colourAt((x + step / 2) / width);
    context.beginPath();
    context.roundRect(x, (height - barHeight) / 2, step - ratio, barHeight, ratio);
    context.fill();
  }
};

export const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
