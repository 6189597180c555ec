// Timelines as text in the formats of other programs: the writers of `emodistill/inference/formats` in the
// browser. They write one recording without speakers.

const UNSURE = '?'; // the label of a segment without an emotion

const label = (segment) => segment.emotion ?? UNSURE;
const decimal = (value) => (Number.isInteger(value) ? `${value}.0` : String(value)); // as Python writes a float
const field = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

const json = (row) => `${JSON.stringify([row], null, 1)}\n`;

const csv = (row, emotions) => {
  const names = ['path', 'start_s', 'end_s', 'speaker', 'emotion', 'confidence', 'reason', 'error', ...emotions.map((name) => `p_${name}`)];
  const lines = row.segments.map((segment) => {
    const probabilities = emotions.map((name) => decimal(segment.probabilities[name]));
    const times = [segment.start_s, segment.end_s].map(decimal);
    return [field(row.path), ...times, '', segment.emotion ?? '', decimal(segment.confidence), '', '', ...probabilities];
  });
  if (row.reason) lines.push([field(row.path), '', '', '', '', '', row.reason, '', ...emotions.map(() => '')]);
  return [names, ...lines].map((line) => `${line.join(',')}\n`).join('');
};

// SubRip's hours:minutes:seconds,milliseconds.
const clock = (seconds) => new Date(Math.round(1000 * seconds)).toISOString().slice(11, 23).replace('.', ',');

const srt = (row) =>
  row.segments
    .map((segment, at) => `${at + 1}\n${clock(segment.start_s)} --> ${clock(segment.end_s)}\n${label(segment)} ${Math.round(100 * segment.confidence)} %\n`)
    .join('\n');

// Segments and, between them, nothing: intervals without gaps from 0 to the end.
const intervals = (segments, end) => {
  const found = [];
  let reached = 0;
  for (const segment of segments) {
    if (segment.start_s > reached) found.push([reached, segment.start_s, '']);
    found.push([segment.start_s, segment.end_s, label(segment)]);
    reached = segment.end_s;
  }
  if (end > reached || found.length === 0) found.push([reached, end, '']);
  return found;
};

const textgrid = (row) => {
  const end = decimal(Math.max(row.duration_s, ...row.segments.map(({ end_s }) => end_s)));
  const tier = intervals(row.segments, Number(end));
  return [
    'File type = "ooTextFile"', 'Object class = "TextGrid"', '',
    'xmin = 0', `xmax = ${end}`, 'tiers? <exists>', 'size = 1', 'item []:',
    '    item [1]:', '        class = "IntervalTier"', '        name = "emotion"',
    '        xmin = 0', `        xmax = ${end}`, `        intervals: size = ${tier.length}`,
    ...tier.flatMap(([from, to, words], at) => [
      `        intervals [${at + 1}]:`, `            xmin = ${decimal(from)}`, `            xmax = ${decimal(to)}`, `            text = "${words}"`,
    ]),
    '',
  ].join('\n');
};

export const WRITERS = { json, csv, srt, textgrid }; // (row, emotions) => text
