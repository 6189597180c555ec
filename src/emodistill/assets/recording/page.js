(() => {
'use strict';
// The page of one recording. `timeline` is the timeline as in JSON. `facts` has what the charts need besides.
const byId = (id) => document.getElementById(id);
const timeline = JSON.parse(byId('timeline-data').textContent);
const facts = JSON.parse(byId('facts').textContent);
const duration = timeline.duration_s || 0;
const audio = byId('audio');

const PEAKS_PER_S = 20; // of the envelope
const WHOLE_S = 120; // a shorter recording is shown whole, without an overview
const MIN_SPAN_S = 5; // of the zoomed view
const ROWS = 50; // segments in the list at a time
const MAX_PRINTED = 400; // segments; of more, the paper has the trend alone
const SEEK_S = 5; // of an arrow key
const GAP_S = 2; // a longer silence breaks a curve

const segments = timeline.segments.map((segment, index) => ({
  ...segment,
  index,
  lane: segment.speaker ?? null,
}));
const laneNames = [...new Set(segments.map((segment) => segment.lane))];
const lanes = (laneNames.length ? laneNames : [null]).map((name) => {
  const own = segments.filter((segment) => segment.lane === name);
  return { name, segments: own, peaks: envelopeOf(own) };
});
const { dimensions } = facts; // that segments have, by name
const inWords = (names) => [names.slice(0, -1).join(', '), names.at(-1)].filter(Boolean).join(' and ');
const state = { time: 0, start: 0, span: duration, row: 0, printing: false, shown: null };

// --- texts ----------------------------------------------------------------------------------------

function clock(time, exact = false) {
  const whole = exact ? Math.floor(time) : Math.round(time);
  const pad = (value) => String(value).padStart(2, '0');
  const minutes = whole < 3600
    ? `${Math.floor(whole / 60)}` : `${Math.floor(whole / 3600)}:${pad(Math.floor(whole / 60) % 60)}`;
  return `${minutes}:${pad(whole % 60)}${exact ? `.${Math.floor((time - whole) * 10 + 1e-6)}` : ''}`;
}

const NO_ANSWER = 'no answer'; // the name of a segment without an emotion

function className(emotion) {
  const place = facts.emotions.indexOf(emotion);
  return place < 0 ? 'unsure' : `e${place}`;
}

function described(segment) {
  const parts = [segment.lane, segment.emotion ?? NO_ANSWER].filter((part) => part !== null);
  if (segment.confidence !== null) parts.push(`${Math.round(100 * segment.confidence)} %`);
  if (segment.surety) parts.push(segment.surety);
  return parts.join(', ');
}

function make(tag, attributes = {}, text = '') {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== '') element.textContent = text;
  return element;
}

function draw(parent, tag, attributes, text = '') {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== '') element.textContent = text;
  parent.append(element);
  return element;
}

// --- sound ----------------------------------------------------------------------------------------

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// The envelope, 0 to 1, of the channel that a lane was made of, or of all channels together.
function envelopeOf(own) {
  const [channel, ...others] = new Set(own.map((segment) => segment.channel));
  const single = others.length ? undefined : facts.envelope[channel];
  const channels = single ? [single] : facts.envelope;
  if (!channels.length) return null;
  const loudest = Math.max(1e-9, ...channels.map((each) => each.largest));
  const all = channels.map((each) => bytesOf(each.peaks));
  const scales = channels.map((each) => each.largest / loudest / 255);
  return Float32Array.from(all[0], (_, place) => Math.max(...all.map((peaks, at) => peaks[place] * scales[at])));
}

function prepareSound() {
  if (!facts.sound) return;
  // Some browsers cannot seek in a data address, so the sound becomes a file in memory.
  const [, base64] = audio.getAttribute('src').split(',');
  audio.src = URL.createObjectURL(new Blob([bytesOf(base64)], { type: 'audio/mpeg' }));
  byId('play').hidden = false;
  byId('play').addEventListener('click', toggle);
  for (const kind of ['play', 'pause', 'ended']) {
    audio.addEventListener(kind, () => {
      byId('play').textContent = audio.paused ? 'Play' : 'Pause';
      if (!audio.paused) requestAnimationFrame(followSound);
    });
  }
  audio.addEventListener('seeked', () => { if (audio.paused) moveTo(audio.currentTime); });
}

function followSound() {
  moveTo(audio.currentTime);
  if (!audio.paused) requestAnimationFrame(followSound);
}

function toggle() {
  if (!facts.sound) return;
  if (audio.paused) audio.play().catch(() => {}); // The browser refuses a sound that nobody asked for.
  else audio.pause();
}

function seek(time, play = false) {
  const clipped = Math.min(Math.max(0, time), duration);
  if (facts.sound) {
    audio.currentTime = clipped;
    if (play && audio.paused) toggle();
  }
  moveTo(clipped);
}

// --- the position ---------------------------------------------------------------------------------

function segmentsAt(time) {
  return segments.filter((segment) => segment.start_s <= time && time < segment.end_s);
}

function moveTo(time) {
  state.time = time;
  byId('clock').textContent = `${clock(time, true)} / ${clock(duration)}`;
  if (time < state.start || time > state.start + 0.92 * state.span) showFrom(time - 0.1 * state.span);
  placeHead(strip, state.start, state.span);
  placeHead(overview, 0, duration);
  const current = segmentsAt(time);
  const slider = byId('strip');
  slider.setAttribute('aria-valuenow', time.toFixed(1));
  slider.setAttribute('aria-valuetext', [clock(time), ...current.map(described)].join('; '));
  const shown = current.length ? current.map((segment) => segment.index).join() : '';
  if (shown !== state.shown) {
    state.shown = shown;
    showCurrent(current);
  }
}

function showCurrent(current) {
  const now = byId('now');
  now.replaceChildren();
  for (const segment of current) {
    const line = make('div');
    line.append(make('i', { class: className(segment.emotion) }));
    line.append(make('b', {}, described(segment)));
    if (segment.text) line.append(`: ${segment.text}`);
    now.append(line);
  }
  if (!current.length) now.append(make('span', { class: 'quiet' }, 'No speech here.'));
  for (const tint of byId('strip').querySelectorAll('.tint')) {
    tint.classList.toggle('now', current.some((segment) => String(segment.index) === tint.dataset.index));
  }
  if (current.length && byId('follow').checked) followInList(current[current.length - 1]);
  markRows(current);
}

function placeHead(chart, start, span) {
  if (!chart.head) return;
  const x = chart.x(start + Math.min(span, Math.max(0, state.time - start)));
  chart.head.setAttribute('x1', x);
  chart.head.setAttribute('x2', x);
  if (chart.view) {
    chart.view.setAttribute('x', chart.x(state.start));
    chart.view.setAttribute('width', Math.max(3, chart.x(state.start + state.span) - chart.x(state.start)));
  }
}

function showFrom(start, span = state.span) {
  state.span = Math.min(duration, Math.max(Math.min(MIN_SPAN_S, duration), span));
  state.start = Math.min(Math.max(0, start), duration - state.span);
  drawStrip();
  placeHead(strip, state.start, state.span);
  placeHead(overview, 0, duration);
}

function zoom(factor) {
  const place = (state.time - state.start) / state.span;
  const span = Math.min(duration, Math.max(MIN_SPAN_S, factor * state.span));
  showFrom(state.time - Math.min(1, Math.max(0, place)) * span, span);
}

// --- charts ---------------------------------------------------------------------------------------

const strip = { svg: byId('strip').querySelector('svg') };
const overview = { svg: byId('overview') };
const LANE = { title: 18, wave: 56, curves: 52, gap: 14 };

function clear(chart, width, height, start, span) {
  chart.svg.replaceChildren();
  chart.svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  chart.x = (time) => (span ? ((time - start) / span) * width : 0);
  chart.width = width;
}

function drawAxis(chart, y, start, span) {
  const wished = (span / chart.width) * 90; // seconds of 90 pixels
  const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
  const step = steps.find((value) => value >= wished) ?? 14400;
  for (let time = Math.ceil(start / step) * step; time <= start + span; time += step) {
    const x = chart.x(time);
    draw(chart.svg, 'line', { class: 'rule', x1: x, x2: x, y1: y, y2: y + 4 });
    const edge = x < 16 ? 'start' : x > chart.width - 16 ? 'end' : 'middle';
    draw(chart.svg, 'text', { x, y: y + 16, 'text-anchor': edge }, step < 1 ? clock(time, true) : clock(time));
  }
}

function drawStrip() {
  const width = Math.max(200, Math.round(byId('strip').clientWidth));
  const named = lanes.length > 1 || lanes[0].name !== null;
  const title = named ? LANE.title : 0;
  const height = lanes.length * (title + LANE.wave + LANE.curves + LANE.gap) + 20;
  clear(strip, width, height, state.start, state.span);
  let y = 0;
  for (const lane of lanes) {
    if (named) draw(strip.svg, 'text', { class: 'name', x: 0, y: y + 13 }, lane.name ?? 'no speaker');
    y += title;
    drawWave(lane, y, width);
    drawCurves(lane, y + LANE.wave + 6, width);
    y += LANE.wave + LANE.curves + LANE.gap;
  }
  drawAxis(strip, y - 4, state.start, state.span);
  strip.head = draw(strip.svg, 'line', { class: 'head', y1: 0, y2: y - 4 });
  byId('strip').setAttribute('aria-valuemax', duration.toFixed(1));
  byId('zoom-in').disabled = state.span <= MIN_SPAN_S;
  byId('zoom-out').disabled = state.span >= duration;
}

function visible(list) {
  return list.filter((part) => part.end_s > state.start && part.start_s < state.start + state.span);
}

function drawWave(lane, y, width) {
  draw(strip.svg, 'rect', { class: 'box', x: 0, y, width, height: LANE.wave, rx: 6 });
  const inside = visible(lane.segments);
  for (const segment of inside) {
    const x = strip.x(segment.start_s);
    const size = Math.max(1, strip.x(segment.end_s) - x);
    const tint = draw(strip.svg, 'rect', {
      class: `tint ${className(segment.emotion)}`, 'data-index': segment.index, x, y, width: size,
      height: LANE.wave, rx: Math.min(5, size / 3),
    });
    tint.classList.toggle('now', segment.start_s <= state.time && state.time < segment.end_s);
    draw(tint, 'title', {}, `${clock(segment.start_s, true)} ${described(segment)}${segment.text ? `: ${segment.text}` : ''}`);
  }
  if (lane.peaks) drawPeaks(lane, inside, y, width);
  for (const segment of inside) {
    const x = Math.max(0, strip.x(segment.start_s));
    const word = segment.emotion ?? NO_ANSWER;
    if (Math.min(width, strip.x(segment.end_s)) - x > 7 * word.length + 8) {
      draw(strip.svg, 'text', { class: 'word', x: x + 5, y: y + 13 }, word);
    }
  }
}

// One path for each emotion, and one for what is outside of all segments.
function drawPeaks(lane, inside, y, width) {
  const paths = new Map();
  const middle = y + LANE.wave / 2 + 5;
  const seconds = state.span / width;
  for (let pixel = 0; pixel < width; pixel += 2) {
    const from = state.start + pixel * seconds;
    const first = Math.floor(from * PEAKS_PER_S);
    const last = Math.max(first + 1, Math.ceil((from + 2 * seconds) * PEAKS_PER_S));
    let peak = 0;
    for (let place = first; place < last; place += 1) peak = Math.max(peak, lane.peaks[place] ?? 0);
    const half = Math.max(0.5, peak * (LANE.wave / 2 - 8));
    const segment = inside.find((part) => part.start_s <= from + seconds && from + seconds < part.end_s);
    const name = segment ? `wave ${className(segment.emotion)}` : 'wave silent';
    const bar = `M${pixel} ${(middle - half).toFixed(1)}h1.6v${(2 * half).toFixed(1)}h-1.6z`;
    paths.set(name, (paths.get(name) ?? '') + bar);
  }
  for (const [name, d] of paths) {
    draw(strip.svg, 'path', name === 'wave silent' ? { class: 'silent', d } : { class: name, d });
  }
}

function showsDimensions() {
  return byId('curves').value === 'dimensions' && dimensions.length > 0;
}

function curveNames() {
  return showsDimensions() ? dimensions : facts.emotions;
}

function drawCurves(lane, y, width) {
  for (const value of [0, 1]) {
    const level = y + (1 - value) * (LANE.curves - 8);
    draw(strip.svg, 'line', { class: 'rule', x1: 0, x2: width, y1: level, y2: level });
    draw(strip.svg, 'text', { x: 4, y: value ? level + 11 : level - 3 }, value);
  }
  for (const name of curveNames()) {
    const isDimension = showsDimensions();
    let d = '';
    let reached = null;
    for (const segment of visible(lane.segments)) {
      const value = isDimension ? segment.dimensions?.[name] : segment.probabilities[name];
      if (value === undefined) continue;
      const height = (y + (1 - value) * (LANE.curves - 8)).toFixed(1);
      const joined = reached !== null && segment.start_s - reached <= GAP_S;
      d += `${joined ? 'L' : 'M'}${strip.x(segment.start_s).toFixed(1)} ${height}H${strip.x(segment.end_s).toFixed(1)}`;
      reached = segment.end_s;
    }
    if (d) draw(strip.svg, 'path', { class: `curve ${isDimension ? name : className(name)}`, d });
  }
}

// The trend of each lane: shares of each step by emotion, with the curves of the dimensions over them.
function drawOverview() {
  byId('overview-figure').hidden = duration <= WHOLE_S;
  byId('zoom').hidden = duration <= WHOLE_S && !facts.sound;
  if (duration <= WHOLE_S) return;
  const width = Math.max(200, Math.round(byId('overview-figure').clientWidth));
  const row = 56;
  // A step without a speaker is that of all speakers, so no lane of segments without a speaker is drawn.
  const shown = lanes.length > 1 ? lanes.filter((lane) => lane.name !== null) : lanes;
  const named = lanes.length > 1 || lanes[0].name !== null;
  const title = named ? LANE.title : 0;
  clear(overview, width, shown.length * (title + row + 4) + 20, 0, duration);
  byId('overview-caption').textContent =
    `Whole recording: how long each emotion lasts in steps of ${facts.step_s < 60 ? `${facts.step_s} s` : `${facts.step_s / 60} min`}${dimensions.length ? `, with ${inWords(dimensions)}` : ''}`;
  const isShown = (step) => shown.some((lane) => lane.name === (step.speaker ?? null));
  const shares = facts.trend.filter(isShown).map((step) => step.speech_s / (step.end_s - step.start_s));
  const top = Math.min(1, Math.max(0.05, ...shares)); // the share of the time that fills a row
  let y = 0;
  for (const lane of shown) {
    if (named) draw(overview.svg, 'text', { class: 'name', x: 0, y: y + 13 }, lane.name ?? 'no speaker');
    y += title;
    draw(overview.svg, 'rect', { class: 'box', x: 0, y, width, height: row });
    const steps = facts.trend.filter((step) => (step.speaker ?? null) === lane.name);
    for (const step of steps) drawShares(step, y, row, top);
    for (const name of dimensions) {
      const points = steps.filter((step) => step.dimensions?.[name] !== undefined).map((step) => {
        const x = overview.x((step.start_s + step.end_s) / 2).toFixed(1);
        return `${x} ${(y + (1 - step.dimensions[name]) * row).toFixed(1)}`;
      });
      for (const kind of points.length ? ['halo', `curve ${name}`] : []) {
        draw(overview.svg, 'path', { class: kind, d: `M${points.join('L')}` });
      }
    }
    y += row + 4;
  }
  drawAxis(overview, y, 0, duration);
  overview.view = draw(overview.svg, 'rect', { class: 'view', y: 0, height: y });
  overview.head = draw(overview.svg, 'line', { class: 'head', y1: 0, y2: y });
}

function drawShares(step, y, row, top) {
  const x = overview.x(step.start_s);
  const size = Math.max(0.5, overview.x(step.end_s) - x - 0.6);
  const whole = Math.max(step.end_s - step.start_s, step.speech_s);
  let bottom = y + row;
  const parts = [...facts.emotions.map((name) => [className(name), step.seconds[name] ?? 0]), ['unsure', step.unsure_s]];
  for (const [name, seconds] of parts) {
    const height = (seconds / whole / top) * row;
    if (!height) continue;
    bottom -= height;
    draw(overview.svg, 'rect', { class: `fill ${name}`, x, y: bottom, width: size, height });
  }
}

function drawLegend() {
  const legend = byId('legend');
  legend.replaceChildren();
  const used = new Set(segments.map((segment) => segment.emotion));
  const add = (key, text, line = false) => {
    const item = make('li', { class: key });
    item.append(make('i', line ? { class: `line ${key}` } : {}), text);
    legend.append(item);
  };
  for (const name of facts.emotions) if (used.has(name) || curveNames().includes(name)) add(className(name), name);
  if (used.has(null)) add('unsure', NO_ANSWER);
  if (showsDimensions()) for (const name of dimensions) add(name, name, true);
  byId('curves-note').textContent = segments.length
    ? `Curves below each waveform: ${showsDimensions() ? inWords(dimensions) : 'the probability of each emotion'}, from 0 to 1.`
    : '';
}

// --- pointer and keyboard -------------------------------------------------------------------------

function timeAt(chart, event, start, span) {
  const box = chart.svg.getBoundingClientRect();
  return start + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * span;
}

function listenToCharts() {
  let grip = null;
  const element = byId('strip');
  element.addEventListener('pointerdown', (event) => {
    grip = { x: event.clientX, start: state.start, moved: false };
  });
  element.addEventListener('pointermove', (event) => {
    if (!grip || !event.buttons) return;
    const moved = event.clientX - grip.x;
    if (Math.abs(moved) > 6) grip.moved = true;
    if (grip.moved) showFrom(grip.start - (moved / element.clientWidth) * state.span);
  });
  element.addEventListener('click', (event) => {
    const moved = grip?.moved;
    grip = null;
    if (moved) return;
    const tint = event.target.closest('.tint');
    if (tint) seek(segments[tint.dataset.index].start_s, true);
    else seek(timeAt(strip, event, state.start, state.span));
  });
  element.addEventListener('wheel', (event) => {
    if (!event.deltaX || state.span >= duration) return;
    event.preventDefault();
    showFrom(state.start + (event.deltaX / element.clientWidth) * state.span);
  }, { passive: false });
  const drag = (event) => {
    if (!event.buttons) return;
    const time = timeAt(overview, event, 0, duration);
    showFrom(time - state.span / 2);
    seek(time);
  };
  byId('overview').addEventListener('pointerdown', drag);
  byId('overview').addEventListener('pointermove', drag);
  element.addEventListener('keydown', pressKey);
}

function neighbour(direction) {
  const starts = segments.map((segment) => segment.start_s);
  if (direction > 0) return starts.find((start) => start > state.time + 0.05);
  return starts.findLast((start) => start < state.time - 0.5);
}

function pressKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    ' ': toggle,
    Enter: toggle,
    ArrowLeft: () => seek(state.time - SEEK_S),
    ArrowRight: () => seek(state.time + SEEK_S),
    ArrowDown: () => seek(state.time - SEEK_S),
    ArrowUp: () => seek(state.time + SEEK_S),
    Home: () => seek(0),
    End: () => seek(duration),
    PageUp: () => seek(neighbour(-1) ?? 0),
    PageDown: () => seek(neighbour(1) ?? state.time),
    '+': () => zoom(0.5),
    '=': () => zoom(0.5),
    '-': () => zoom(2),
  };
  if (!(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
}

// --- the list -------------------------------------------------------------------------------------

const columns = [
  ['start', () => true], ['speaker', () => laneNames.some((name) => name !== null)], ['emotion', () => true],
  ['sure', () => segments.some((segment) => segment.surety)],
  ['text', () => segments.some((segment) => segment.text)],
].filter(([, isShown]) => isShown()).map(([name]) => name);

function chosen() {
  const speaker = byId('speaker').value;
  const emotion = byId('emotion').value;
  return segments.filter((segment) => (
    (speaker === '' || String(laneNames.indexOf(segment.lane)) === speaker)
    && (emotion === '' || (segment.emotion ?? NO_ANSWER) === emotion)
  ));
}

function rowOf(segment) {
  const row = make('tr', { 'data-index': segment.index });
  const cell = (kind, ...content) => {
    const made = make('td', { class: kind, dir: 'auto' });
    made.append(...content);
    row.append(made);
  };
  const from = clock(segment.start_s, true);
  const play = make('button', {
    type: 'button', 'aria-label': `${facts.sound ? 'Play' : 'Show'} from ${from}: ${described(segment)}`,
  }, from);
  cell('short', play);
  if (columns.includes('speaker')) cell('speaker', segment.lane ?? '');
  const sure = segment.confidence === null ? '' : ` ${Math.round(100 * segment.confidence)} %`;
  cell('short', make('i', { class: className(segment.emotion) }), `${segment.emotion ?? NO_ANSWER}${sure}`);
  if (columns.includes('sure')) cell('surety', segment.surety ?? '');
  if (columns.includes('text')) cell('text', segment.text ?? '');
  return row;
}

function drawList() {
  const found = chosen();
  const all = state.printing && found.length <= MAX_PRINTED;
  state.row = Math.max(0, Math.min(state.row, ROWS * Math.floor((found.length - 1) / ROWS)));
  const page = all ? found : found.slice(state.row, state.row + ROWS);
  byId('segments').replaceChildren(...page.map(rowOf));
  byId('range').textContent = found.length
    ? `${state.row + 1} to ${state.row + page.length} of ${found.length}` : 'none';
  byId('pager').hidden = found.length <= ROWS && found.length > 0;
  byId('earlier').disabled = state.row === 0;
  byId('later').disabled = state.row + ROWS >= found.length;
  markRows(segmentsAt(state.time));
}

function markRows(current) {
  for (const row of byId('segments').children) {
    const isCurrent = current.some((segment) => String(segment.index) === row.dataset.index);
    if (isCurrent) row.setAttribute('aria-current', 'true');
    else row.removeAttribute('aria-current');
  }
}

// Shows the row of a segment, and moves the list alone, never the page.
function followInList(segment) {
  if (state.printing || byId('rows').contains(document.activeElement)) return;
  const place = chosen().indexOf(segment);
  if (place < 0) return;
  const first = ROWS * Math.floor(place / ROWS);
  if (first !== state.row) {
    state.row = first;
    drawList();
  }
  const row = byId('segments').children[place - first];
  const box = byId('rows');
  if (!row || box.scrollHeight <= box.clientHeight) return;
  const top = row.offsetTop - byId('heads').offsetHeight;
  if (top < box.scrollTop || row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight) {
    box.scrollTop = top;
  }
}

function prepareList() {
  byId('list').hidden = segments.length === 0;
  byId('heads').append(...columns.map((name) => make('th', { scope: 'col' }, name === 'sure' ? 'how sure' : name)));
  byId('speaker').append(make('option', { value: '' }, 'all'));
  laneNames.forEach((name, place) => byId('speaker').append(make('option', { value: place }, name ?? 'no speaker')));
  byId('speaker-choice').hidden = laneNames.length < 2;
  byId('emotion').append(make('option', { value: '' }, 'all'));
  const used = new Set(segments.map((segment) => segment.emotion ?? NO_ANSWER));
  for (const name of [...facts.emotions, NO_ANSWER]) {
    if (used.has(name)) byId('emotion').append(make('option', { value: name }, name));
  }
  byId('follow').parentElement.hidden = !facts.sound;
  for (const id of ['speaker', 'emotion']) {
    byId(id).addEventListener('change', () => { state.row = 0; drawList(); });
  }
  const turn = (rows) => () => {
    byId('follow').checked = false; // Otherwise the sound would take the reader back.
    state.row += rows;
    drawList();
    byId('rows').scrollTop = 0;
  };
  byId('earlier').addEventListener('click', turn(-ROWS));
  byId('later').addEventListener('click', turn(ROWS));
  byId('segments').addEventListener('click', (event) => {
    const row = event.target.closest('tr');
    if (row && event.target.closest('button')) seek(segments[row.dataset.index].start_s, true);
  });
}

// --- print ----------------------------------------------------------------------------------------

function preparePrint() {
  const details = byId('trend');
  let wasOpen = details.open;
  addEventListener('beforeprint', () => {
    state.printing = true;
    wasOpen = details.open;
    details.open = true;
    state.view = [state.start, state.span];
    byId('strip').hidden = duration > WHOLE_S;
    const tooMany = chosen().length > MAX_PRINTED;
    byId('rows').hidden = tooMany;
    byId('not-printed').hidden = !tooMany;
    byId('not-printed').textContent =
      `${chosen().length} segments are too many for paper. The page itself lists them, and the trend sums them up.`;
    if (overview.view) overview.view.setAttribute('visibility', 'hidden');
    drawList();
  });
  addEventListener('afterprint', () => {
    state.printing = false;
    details.open = wasOpen;
    byId('strip').hidden = false;
    byId('rows').hidden = false;
    byId('not-printed').hidden = true;
    if (overview.view) overview.view.setAttribute('visibility', 'visible');
    drawList();
  });
}

// --- start ----------------------------------------------------------------------------------------

function drawAll() {
  drawOverview();
  showFrom(state.start);
}

if (duration > WHOLE_S) state.span = innerWidth < 640 ? 30 : 60;
byId('curve-choice').hidden = dimensions.length === 0;
if (dimensions.length && dimensions.length < 3) byId('curves').options[0].textContent = inWords(dimensions);
byId('curves').addEventListener('change', () => { drawLegend(); drawAll(); });
byId('zoom-in').addEventListener('click', () => zoom(0.5));
byId('zoom-out').addEventListener('click', () => zoom(2));
prepareSound();
prepareList();
preparePrint();
listenToCharts();
drawLegend();
drawAll();
drawList();
moveTo(0);
let width = innerWidth;
addEventListener('resize', () => {
  if (innerWidth === width || state.printing) return;
  width = innerWidth;
  drawAll();
});
})();
