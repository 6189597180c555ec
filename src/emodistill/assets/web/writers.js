// Timelines as files, in the browser: the same text as the Python writers in `emodistill/inference/formats`,
// for one recording. A format is here exactly if its `in_static_page` is True.

const UNSURE = '?'; // the label of a segment without an emotion

// A text with every run of white space, line breaks included, replaced by a space.
const oneLine = (text) => text.split(/\s+/).filter(Boolean).join(' ');
const emotionOf = (segment) => segment.emotion ?? UNSURE;
const label = (segment) =>
  segment.speaker === undefined ? emotionOf(segment) : `${oneLine(segment.speaker)}: ${emotionOf(segment)}`;
const percent = (segment) => `${Math.round(100 * segment.confidence)} %`;
// A number as Python writes a float.
const decimal = (value) => (Number.isInteger(value) ? `${value}.0` : String(value));
// A field of CSV, in quotes if it needs them.
const field = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

const json = (row) => `${JSON.stringify([row], null, 1)}\n`;

const csv = (row, emotions) => {
  const columns = ['path', 'start_s', 'end_s', 'speaker', 'emotion', 'confidence', 'reason', 'error'];
  const hasVoices = row.segments.some((segment) => segment.voice_utterances !== undefined);
  const voices = hasVoices ? ['voice_utterances'] : [];
  const last = [
    'surety', 'arousal', 'valence', 'dimensions_from', 'channel', 'text', 'dominance', 'intensity',
  ];
  const header = [...columns, ...voices, ...emotions.map((name) => `p_${name}`), ...last];
  const optional = (value) => (value === undefined ? '' : field(String(value)));
  const optionalDecimal = (value) => (value === undefined ? '' : decimal(value));
  const lines = row.segments.map((segment) => {
    const { start_s, end_s, emotion, confidence, probabilities, dimensions = {} } = segment;
    return [
      field(row.path), decimal(start_s), decimal(end_s), optional(segment.speaker), emotion ?? '',
      decimal(confidence), emotion ? '' : 'low_confidence', '', ...voices.map((name) => optional(segment[name])),
      ...emotions.map((name) => decimal(probabilities[name])), optional(segment.surety),
      optionalDecimal(dimensions.arousal), optionalDecimal(dimensions.valence),
      optional(segment.dimensions_from), optional(segment.channel), optional(segment.text),
      optionalDecimal(dimensions.dominance), optionalDecimal(dimensions.intensity),
    ];
  });
  const blanks = header.slice(columns.length).map(() => '');
  if (row.reason) lines.push([field(row.path), '', '', '', '', '', row.reason, '', ...blanks]);
  return [header, ...lines].map((line) => `${line.join(',')}\n`).join('');
};

// Hours:minutes:seconds with three decimals.
const clock = (seconds, decimalMark) =>
  new Date(Math.round(1000 * seconds)).toISOString().slice(11, 23).replace('.', decimalMark);

// The numbered blocks of subtitles.
const subtitles = (row, decimalMark, labelOf) =>
  row.segments.map((segment, index) => {
    const times = [segment.start_s, segment.end_s].map((time) => clock(time, decimalMark));
    return `${index + 1}\n${times.join(' --> ')}\n${labelOf(segment)} ${percent(segment)}\n`;
  });

const srt = (row) => subtitles(row, ',', label).join('\n');

// A text with `<`, `>`, `&` and `--` escaped.
const escape = (text) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('--', '-&#45;');
const voice = ({ speaker }) => (speaker === undefined ? '' : `<v ${escape(oneLine(speaker))}>`);
const cue = (segment) => `${voice(segment)}${emotionOf(segment)}`;

const vtt = (row) => ['WEBVTT\n', ...subtitles(row, '.', cue)].join('\n');

// Named tiers [name, segments]: one for each speaker, without overlaps inside a tier; `tiers` in Python.
const tiers = (segments) => {
  const groups = [];
  for (const segment of segments) {
    const isFree = ([speaker, group]) => speaker === segment.speaker && group.at(-1).end_s <= segment.start_s;
    const free = groups.find(isFree);
    if (free) free[1].push(segment);
    else groups.push([segment.speaker, [segment]]);
  }
  const named = new Map();
  for (const [speaker, group] of groups) {
    const first = speaker || 'emotion';
    let name = first;
    for (let number = 2; named.has(name); number++) name = `${first} ${number}`;
    named.set(name, group);
  }
  return named.size ? [...named] : [['emotion', []]];
};

// Intervals [start, end, label] without gaps from 0 to the end; a gap between segments has an empty label.
const intervals = (segments, end) => {
  const filled = [];
  let reached = 0;
  for (const segment of segments) {
    if (segment.start_s > reached) filled.push([reached, segment.start_s, '']);
    filled.push([segment.start_s, segment.end_s, emotionOf(segment)]);
    reached = segment.end_s;
  }
  if (end > reached || filled.length === 0) filled.push([reached, end, '']);
  return filled;
};

const textgrid = (row) => {
  const seconds = row.segments.reduce((last, { end_s }) => Math.max(last, end_s), row.duration_s);
  const end = decimal(seconds);
  const named = tiers(row.segments);
  const quote = (text) => `"${text.replaceAll('"', '""')}"`;
  const tierLines = ([name, segments], index) => {
    const parts = intervals(segments, seconds);
    return [
      `    item [${index + 1}]:`, '        class = "IntervalTier"', `        name = ${quote(name)}`,
      '        xmin = 0', `        xmax = ${end}`, `        intervals: size = ${parts.length}`,
      ...parts.flatMap(([from, to, text], at) => [
        `        intervals [${at + 1}]:`, `            xmin = ${decimal(from)}`,
        `            xmax = ${decimal(to)}`, `            text = ${quote(text)}`,
      ]),
    ];
  };
  return [
    'File type = "ooTextFile"', 'Object class = "TextGrid"', '',
    'xmin = 0', `xmax = ${end}`, 'tiers? <exists>', `size = ${named.length}`, 'item []:',
    ...named.flatMap(tierLines), '',
  ].join('\n');
};

// Name of the format -> (timeline, emotions) => text of the file.
export const WRITERS = { json, csv, srt, textgrid, vtt };
