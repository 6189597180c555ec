// Timelines as files, in the browser: the same text as the Python writers in `emodistill/inference/formats`,
// for one recording without speakers. A format is here exactly if its `in_static_page` is True.

const UNSURE = '?'; // the label of a segment without an emotion

const label = (segment) => segment.emotion ?? UNSURE;
const percent = (segment) => `${Math.round(100 * segment.confidence)} %`;
// A number as Python writes a float.
const decimal = (value) => (Number.isInteger(value) ? `${value}.0` : String(value));
// A field of CSV, in quotes if it needs them.
const field = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

const json = (row) => `${JSON.stringify([row], null, 1)}\n`;

const csv = (row, emotions) => {
  const columns = ['path', 'start_s', 'end_s', 'speaker', 'emotion', 'confidence', 'reason', 'error'];
  const hasVoices = row.segments.some((segment) => segment.voice_utterances !== undefined);
  if (hasVoices) columns.push('voice_utterances');
  const header = [...columns, ...emotions.map((name) => `p_${name}`)];
  const lines = row.segments.map((segment) => {
    const probabilities = emotions.map((name) => decimal(segment.probabilities[name]));
    const times = [segment.start_s, segment.end_s].map(decimal);
    const confidence = decimal(segment.confidence);
    const known = hasVoices ? [segment.voice_utterances ?? ''] : [];
    const fields = [field(row.path), ...times, '', segment.emotion ?? '', confidence, '', ''];
    return [...fields, ...known, ...probabilities];
  });
  const blanks = emotions.map(() => '');
  if (row.reason) lines.push([field(row.path), '', '', '', '', '', row.reason, '', ...blanks]);
  return [header, ...lines].map((line) => `${line.join(',')}\n`).join('');
};

// Hours:minutes:seconds with three decimals.
const clock = (seconds, decimalMark) =>
  new Date(Math.round(1000 * seconds)).toISOString().slice(11, 23).replace('.', decimalMark);

// The numbered blocks of subtitles.
const subtitles = (row, decimalMark) =>
  row.segments.map((segment, index) => {
    const times = [segment.start_s, segment.end_s].map((time) => clock(time, decimalMark));
    return `${index + 1}\n${times.join(' --> ')}\n${label(segment)} ${percent(segment)}\n`;
  });

const srt = (row) => subtitles(row, ',').join('\n');

const vtt = (row) => ['WEBVTT\n', ...subtitles(row, '.')].join('\n');

// Intervals [start, end, label] without gaps from 0 to the end; a gap between segments has an empty label.
const intervals = (segments, end) => {
  const filled = [];
  let reached = 0;
  for (const segment of segments) {
    if (segment.start_s > reached) filled.push([reached, segment.start_s, '']);
    filled.push([segment.start_s, segment.end_s, label(segment)]);
    reached = segment.end_s;
  }
  if (end > reached || filled.length === 0) filled.push([reached, end, '']);
  return filled;
};

const textgrid = (row) => {
  const end = decimal(Math.max(row.duration_s, ...row.segments.map(({ end_s }) => end_s)));
  const tier = intervals(row.segments, Number(end));
  return [
    'File type = "ooTextFile"', 'Object class = "TextGrid"', '',
    'xmin = 0', `xmax = ${end}`, 'tiers? <exists>', 'size = 1', 'item []:',
    '    item [1]:', '        class = "IntervalTier"', '        name = "emotion"',
    '        xmin = 0', `        xmax = ${end}`, `        intervals: size = ${tier.length}`,
    ...tier.flatMap(([from, to, text], index) => [
      `        intervals [${index + 1}]:`,
      `            xmin = ${decimal(from)}`, `            xmax = ${decimal(to)}`, `            text = "${text}"`,
    ]),
    '',
  ].join('\n');
};

// Name of the format -> (timeline, emotions) => text of the file.
export const WRITERS = { json, csv, srt, textgrid, vtt };
