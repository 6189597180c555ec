// What both pages show: emotions in their colours, bars of probabilities, a waveform coloured by emotion.

export const UNSURE = '#505050';

export const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

export const percent = (share) => `${Math.round(100 * share)} %`;

export const time = (seconds) => {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')} min`;
};

// Black or white, whichever reads better on a colour: WCAG's relative luminance.
export const inkOn = (colour) => {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const value = parseInt(colour.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.19 ? '#10141d' : '#ffffff';
};

export const swatch = (colour) => {
  const made = element('i', { ariaHidden: 'true' });
  made.style.background = colour;
  return made;
};

export const chip = (text, colour) => {
  const made = element('span', { className: 'chip', textContent: text });
  made.style.background = colour;
  made.style.color = inkOn(colour);
  return made;
};

// A table, so that it can be read without seeing it.
export const bars = (probabilities, colours, caption) => {
  const entries = Object.entries(probabilities);
  const best = Math.max(...entries.map(([, value]) => value));
  const table = element('table', { className: 'bars' }, element('caption', { className: 'hidden-text', textContent: caption }));
  for (const [emotion, value] of entries) {
    const fill = element('i');
    fill.style.width = `${100 * value}%`;
    fill.style.background = colours[emotion];
    table.append(
      element(
        'tr', { className: value === best ? 'best' : '' },
        element('th', { scope: 'row', textContent: emotion }),
        element('td', { ariaHidden: 'true' }, element('div', { className: 'bar' }, fill)),
        element('td', { textContent: percent(value) }),
      ),
    );
  }
  return table;
};

const TEACHERS = {
  prosodic: 'How it is said: prosody alone',
  linguistic: 'What is said: words alone',
  acoustic: 'The larger acoustic teacher',
};

export const teacherViews = (teachers, colours) =>
  Object.entries(teachers ?? {}).flatMap(([name, probabilities]) => [
    element('h3', { textContent: TEACHERS[name] ?? name }),
    bars(probabilities, colours, `What the ${name} teacher would say`),
  ]);

// Why there is no emotion.
export const REASONS = {
  silence: 'There is nothing but silence.',
  no_speech: 'No speech was found.',
  too_short: 'It is too short to say anything.',
};

// One sentence about a prediction: its emotion, or why there is none.
export const headline = (row, colours) => {
  if (row.error) return [row.error];
  if (row.emotion) return ['As a whole: ', chip(row.emotion, colours[row.emotion]), ` with a confidence of ${percent(row.confidence)}`];
  if (row.reason !== 'low_confidence') return [REASONS[row.reason] ?? 'No emotion.'];
  const [best] = Object.entries(row.probabilities).sort((a, b) => b[1] - a[1])[0];
  return ['As a whole: ', chip('unsure', UNSURE), ` (${best} at ${percent(row.confidence)} is below what you asked for)`];
};

// Bars of the waveform in the colour of the segment that they lie in; `colourAt(share)` of the recording's length.
export const drawWave = (colourAt) => (channels, context) => {
  const { width, height } = context.canvas;
  const ratio = window.devicePixelRatio || 1;
  const step = Math.max(3, Math.round(3 * ratio));
  const peaks = channels[0];
  let top = 1e-4;
  for (const value of peaks) top = Math.max(top, Math.abs(value));
  for (let x = 0; x < width; x += step) {
    const first = Math.floor((x / width) * peaks.length);
    const last = Math.max(first + 1, Math.floor(((x + step) / width) * peaks.length));
    let peak = 0;
    for (let at = first; at < last; at++) peak = Math.max(peak, Math.abs(peaks[at]));
    const tall = Math.max(2 * ratio, (peak / top) * height * 0.92);
    context.fillStyle = colourAt((x + step / 2) / width);
    context.beginPath();
    context.roundRect(x, (height - tall) / 2, step - ratio, tall, ratio);
    context.fill();
  }
};

export const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
