// Elements that both pages show: emotions in their colours, bars of probabilities, and a waveform.

export const UNSURE_COLOUR = '#505050';
export const NO_ANSWER = 'no answer'; // the name of a segment without an emotion

export const element = (tag, properties = {}, ...children) => {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
};

export const percent = (share) => `${Math.round(100 * share)} %`;

export const formatTime = (seconds) => {
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')} min`;
};

// A position in a recording: minutes:seconds, or hours:minutes:seconds.
export const formatClock = (seconds) => {
  const whole = Math.floor(seconds + 1e-6);
  const two = (value) => String(value).padStart(2, '0');
  const minutes = Math.floor(whole / 60);
  const start = minutes < 60 ? `${minutes}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}`;
  return `${start}:${two(whole % 60)}`;
};

export const nameOf = (segment) => segment.emotion ?? NO_ANSWER;
export const shortTimes = ({ start_s, end_s }) => `${start_s.toFixed(1)} to ${end_s.toFixed(1)} s`;

// The name of a channel: its speaker's, if the channels were analysed by themselves.
export const laneName = (segments, channel, isSplit) =>
  (isSplit && segments.find(({ speaker }) => speaker)?.speaker) || channelName(channel);

const channelName = (channel) => `channel ${channel}`;

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

const duration = ({ start_s, end_s }) => end_s - start_s;

// The names of the dimensions that segments have; those of one model are always the same.
export const dimensionNames = (segments) =>
  Object.keys(segments.find(({ dimensions }) => dimensions)?.dimensions ?? {});

// The dimensions of segments, as bars of the means over their time. Nothing if they have none.
export const dimensionBars = (segments) => {
  const rated = segments.filter(({ dimensions }) => dimensions);
  if (rated.length === 0) return [];
  const names = dimensionNames(rated);
  const inWords = [names.slice(0, -1).join(', '), names.at(-1)].filter(Boolean).join(' and ');
  const title = inWords[0].toUpperCase() + inWords.slice(1);
  const isComputed = rated[0].dimensions_from === 'emotions';
  const source = isComputed ? 'computed from the emotions' : 'predicted by the model';
  const total = rated.reduce((sum, segment) => sum + duration(segment), 0);
  const mean = (name) =>
    rated.reduce((sum, segment) => sum + duration(segment) * segment.dimensions[name], 0) / total;
  const table = element('table', { className: 'bars' });
  table.append(element('caption', { className: 'hidden-text', textContent: title }));
  for (const name of names) {
    const value = mean(name);
    const fill = element('i');
    fill.style.width = `${100 * value}%`;
    table.append(
      element(
        'tr', {},
        element('th', { scope: 'row', textContent: name }),
        element('td', { ariaHidden: 'true' }, element('div', { className: 'bar' }, fill)),
        element('td', { textContent: value.toFixed(2) }),
      ),
    );
  }
  return [element('h3', { textContent: `${title}, 0 to 1 (${source})` }), table];
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

// The seconds of each emotion that occurs, the longest first. Segments below the minimum confidence are
// 'no answer'.
const secondsByEmotion = (segments) => {
  const seconds = new Map();
  for (const segment of segments) {
    const name = nameOf(segment);
    seconds.set(name, (seconds.get(name) ?? 0) + duration(segment));
  }
  return [...seconds].sort((a, b) => b[1] - a[1]);
};

const emotionChip = (name, colours) => chip(name, colours[name] ?? UNSURE_COLOUR);

// The emotions of segments by their share of the speech, as nodes: at most three. Ends without a full stop.
const shares = (segments, colours) => {
  const seconds = secondsByEmotion(segments);
  const spoken = seconds.reduce((sum, [, value]) => sum + value, 0);
  return seconds.slice(0, 3).flatMap(([name, value], at) => [
    at ? ', ' : '', emotionChip(name, colours), ` ${percent(value / spoken)}${at ? '' : ' of the speech'}`,
  ]);
};

// One sentence about the only segment of a recording, as nodes.
const ofOneSegment = ({ emotion, confidence, probabilities, surety }, colours) => {
  const [best] = Object.entries(probabilities).sort((a, b) => b[1] - a[1])[0];
  if (!emotion) {
    const explanation = ` (${best} with ${percent(confidence)} is below your minimum confidence).`;
    return [emotionChip(NO_ANSWER, colours), explanation];
  }
  const how = surety ? ` (${surety})` : '';
  return [emotionChip(emotion, colours), `, with a confidence of ${percent(confidence)}${how}.`];
};

// One sentence about a recording as a whole, as nodes, from its segments alone. `compared`: they were
// compared with the voice's usual.
export const asWhole = ({ segments, reason }, compared, colours) => {
  if (reason) return [REASONS[reason]];
  const [first, ...others] = segments;
  const content = others.length ? [...shares(segments, colours), '.'] : ofOneSegment(first, colours);
  if (!compared) return ['Whole recording: ', ...content];
  const known = Math.max(...segments.map(({ voice_utterances }) => voice_utterances));
  const utterances = known === 1 ? 'utterance' : 'utterances';
  return [`Compared with this voice's usual (${known} ${utterances}): `, ...content];
};

// What the list of recordings says about one: the emotion of most of its speech, as nodes.
export const inShort = ({ segments, reason, duration_s }, colours) => {
  if (reason) return [REASONS[reason]];
  const [[name]] = secondsByEmotion(segments);
  return [emotionChip(name, colours), ` ${formatTime(duration_s)}`];
};

// The emotions of each speaker of a recording, each as a list item. No items without speakers.
export const speakerItems = ({ segments }, colours) => {
  const names = [...new Set(segments.map((segment) => speakerOf(segment)).filter(Boolean))];
  return names.map((name) =>
    element('li', {}, element('strong', { textContent: name }), ': ',
      ...shares(segments.filter((segment) => speakerOf(segment) === name), colours)),
  );
};

// The speaker of a segment, or its channel if the channels were analysed by themselves.
const speakerOf = ({ speaker, channel }) => speaker ?? (channel === undefined ? null : channelName(channel));

// A drawing function for wavesurfer.js: bars of the waveform, each in the colour of its segments. A bar shows
// the louder channel. `colourBetween` takes two positions in seconds, `loudest` is the peak of the recording,
// and `secondsAt` takes pixels from the left end of the recording. A long waveform has several canvases, and
// each call draws one.
export const drawWave = (colourBetween, loudest, secondsAt) => (channels, context) => {
  const { width, height, style } = context.canvas;
  const ratio = window.devicePixelRatio || 1;
  const step = Math.max(3, Math.round(3 * ratio));
  const left = parseFloat(style.left) || 0;
  const { length } = channels[0];
  for (let x = 0; x < width; x += step) {
    const first = Math.floor((x / width) * length);
    const last = Math.max(first + 1, Math.floor(((x + step) / width) * length));
    let peak = 0;
    for (const samples of channels) {
      for (let at = first; at < last; at++) peak = Math.max(peak, Math.abs(samples[at] ?? 0));
    }
    const barHeight = Math.max(2 * ratio, (peak / loudest) * height * 0.92);
    context.fillStyle = colourBetween(secondsAt(left + x / ratio), secondsAt(left + (x + step) / ratio));
    context.beginPath();
    context.roundRect(x, (height - barHeight) / 2, step - ratio, barHeight, ratio);
    context.fill();
  }
};

export const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
