// Both pages: a recording or the microphone in, its emotions over time out. Who judges, a server or this device, is `api.js`'s affair.

import * as api from './api.js';
import { Live } from './live.js';
import { cut, record, toPcm16, wav } from './sound.js';
import { bars, chip, cssColour, drawWave, element, headline, inkOn, percent, REASONS, swatch, teacherViews, time, UNSURE } from './view.js';
import WaveSurfer from './vendor/wavesurfer.esm.js';

const find = (id) => document.getElementById(id);
const LONGEST_CUT_S = 30; // of a segment that the teachers are asked about
const MODEL_HZ = 16_000; // of what a model hears, so of what is cut out for it
const SUFFIXES = { json: '.json', csv: '.csv', srt: '.srt', textgrid: '.TextGrid' };

const state = { colours: {}, model: null, file: null, row: null, wave: null, buffer: null, chosen: null, recording: null, asked: 0 };

const options = () => ({ token: find('token').value.trim(), threshold: Number(find('threshold').value) / 100 });

const say = (text, busy = false) => {
  find('status').textContent = text;
  find('status').classList.toggle('busy', busy);
};

const complain = (error) => {
  if (error?.status === 401) find('options').open = true;
  find('problem').textContent = error ? error.message : '';
  find('problem').hidden = !error;
  if (error) say('');
};

// How far the judging of what was last opened is, where that is known: from one share to another of the bar's length.
const progress = (from, to, asked = state.asked) => (share) => {
  if (asked !== state.asked) return;
  find('progress').hidden = false;
  find('progress').value = from + (to - from) * share;
};

const introduce = () => {
  find('promise').textContent = api.ABOUT.promise;
  find('links').append(...api.ABOUT.links.flatMap(([textContent, href]) => [element('a', { textContent, href }), ' · ']));
  for (const part of document.querySelectorAll('[for="token"], #token')) part.hidden = !api.ABOUT.token;
};

const loadModel = async () => {
  const { models } = await api.models(options().token);
  [state.model] = models;
  state.colours = state.model.colours;
  find('model').textContent = `${state.model.name}, ${(state.model.num_parameters / 1e6).toFixed(1)} M parameters`;
  find('limits').textContent = `${state.model.limits} ${state.model.intended_use}`;
};

const colourOf = (segment) => (segment.emotion ? state.colours[segment.emotion] : UNSURE);
const nameOf = (segment) => segment.emotion ?? 'unsure';

const open = async (file) => {
  const asked = ++state.asked;
  complain(null);
  find('result').hidden = true;
  say(`Judging ${file.name} …`, true);
  try {
    if (!state.model) await loadModel();
    const row = await api.timeline(file, { ...options(), onProgress: progress(0, 0.6) });
    if (row.error) throw new Error(`${file.name}: ${row.error}`);
    const whole = await api.predict(file, { ...options(), onProgress: progress(0.6, 1) }).catch((error) => {
      if (error.status === 413) return null; // too long to be one utterance
      throw error;
    });
    if (asked !== state.asked) return; // another recording was opened meanwhile
    Object.assign(state, { file, row, whole, chosen: null, buffer: null });
    await show();
    const found = row.segments.length === 1 ? '1 segment' : `${row.segments.length} segments`;
    say(`${file.name}: ${found} in ${time(row.duration_s)}.`);
  } catch (error) {
    if (asked === state.asked) complain(error);
  } finally {
    if (asked === state.asked) find('progress').hidden = true;
  }
};

const show = async () => {
  const { row, file, whole } = state;
  find('result').hidden = false;
  find('result-title').textContent = file.name;
  find('clock').textContent = time(row.duration_s);
  find('headline').replaceChildren(...(whole ? headline(whole, state.colours) : [REASONS[row.reason] ?? 'Too long for one emotion as a whole: see it over time.']));
  showSegments();
  showLegend();
  choose(null);
  find('result').focus({ preventScroll: true });
  find('result').scrollIntoView({ block: 'start', behavior: 'instant' });
  await showWave();
};

const showWave = async () => {
  state.wave?.destroy();
  const { row } = state;
  const colourAt = (share) => {
    const at = share * row.duration_s;
    const segment = row.segments.find(({ start_s, end_s }) => start_s <= at && at < end_s);
    return segment ? colourOf(segment) : cssColour('--wave');
  };
  const wave = WaveSurfer.create({
    container: find('wave'), height: 128, cursorColor: cssColour('--ink'), cursorWidth: 2, progressColor: 'transparent',
    hideScrollbar: true, renderFunction: drawWave(colourAt), sampleRate: MODEL_HZ,
  });
  state.wave = wave;
  find('play').disabled = true;
  wave.on('play', () => (find('play').textContent = 'Pause'));
  wave.on('pause', () => (find('play').textContent = 'Play'));
  wave.on('finish', () => (find('play').textContent = 'Play'));
  wave.on('timeupdate', (now) => (find('clock').textContent = `${time(now)} of ${time(row.duration_s)}`));
  wave.on('interaction', (now) => {
    const at = row.segments.findIndex(({ start_s, end_s }) => start_s <= now && now < end_s);
    choose(at < 0 ? null : at);
  });
  try {
    await wave.loadBlob(state.file);
    state.buffer = wave.getDecodedData();
    find('play').disabled = false;
  } catch {
    say(`This browser cannot play ${state.file.name}; its emotions are below all the same.`);
  }
};

const showSegments = () => {
  const { segments, duration_s } = state.row;
  find('segments').replaceChildren(
    ...segments.map((segment, at) => {
      const made = element('button', { type: 'button', textContent: nameOf(segment), ariaPressed: 'false' });
      made.title = `${nameOf(segment)}, ${percent(segment.confidence)}, ${segment.start_s.toFixed(1)} to ${segment.end_s.toFixed(1)} s`;
      made.setAttribute('aria-label', `${made.title}: listen`);
      made.style.left = `${(100 * segment.start_s) / duration_s}%`;
      made.style.width = `${(100 * (segment.end_s - segment.start_s)) / duration_s}%`;
      made.style.background = colourOf(segment);
      made.style.color = inkOn(colourOf(segment));
      made.onclick = () => listen(at);
      return made;
    }),
  );
  find('segments').hidden = segments.length === 0;
  find('list').hidden = segments.length === 0;
  find('rows').replaceChildren(
    ...segments.map((segment, at) => {
      const button = element('button', { type: 'button', textContent: 'Listen', onclick: () => listen(at) });
      button.setAttribute('aria-label', `Listen from ${segment.start_s.toFixed(1)} to ${segment.end_s.toFixed(1)} s`);
      const cells = [segment.start_s.toFixed(2), segment.end_s.toFixed(2)].map((textContent) => element('td', { textContent }));
      const emotion = element('td', {}, swatch(colourOf(segment)), nameOf(segment));
      return element('tr', {}, ...cells, emotion, element('td', { textContent: percent(segment.confidence) }), element('td', {}, button));
    }),
  );
};

const showLegend = () => {
  const unsure = state.row.segments.filter(({ emotion }) => !emotion).reduce((sum, { start_s, end_s }) => sum + end_s - start_s, 0);
  const heard = Object.entries(state.row.summary).filter(([, seconds]) => seconds > 0);
  if (unsure > 0) heard.push(['unsure', unsure]);
  find('legend').replaceChildren(
    ...heard.map(([emotion, seconds]) => element('li', {}, swatch(state.colours[emotion] ?? UNSURE), `${emotion} ${seconds.toFixed(1)} s`)),
  );
};

// Show a segment's probabilities, or, for null, those of the whole recording.
const choose = (at) => {
  state.chosen = at;
  const segment = at === null ? null : state.row.segments[at];
  [...find('segments').children].forEach((button, index) => (button.ariaPressed = String(index === at)));
  find('chosen-title').textContent = segment
    ? `From ${segment.start_s.toFixed(1)} to ${segment.end_s.toFixed(1)} s`
    : 'The whole recording';
  const probabilities = segment ? segment.probabilities : state.whole?.probabilities;
  const some = probabilities && Object.keys(probabilities).length > 0;
  find('bars').replaceChildren(some ? bars(probabilities, state.colours, find('chosen-title').textContent) : 'No probabilities: there is nothing to judge.');
  find('teachers').replaceChildren(...(segment ? [] : teacherViews(state.whole?.teachers, state.colours)));
};

const listen = async (at) => {
  choose(at);
  const { start_s, end_s } = state.row.segments[at];
  if (!state.buffer) return;
  state.wave.play(start_s, end_s);
  const samples = cut(state.buffer, start_s, Math.min(end_s, start_s + LONGEST_CUT_S));
  try {
    const said = await api.predict(wav(samples, state.buffer.sampleRate), { ...options(), threshold: 0 });
    if (state.chosen === at) find('teachers').replaceChildren(...teacherViews(said.teachers, state.colours));
  } catch (error) {
    complain(error);
  }
};

const download = async (format) => {
  try {
    const blob = await api.timelineAs(state.file, format, options());
    const name = state.file.name.replace(/\.[^.]*$/, '') + SUFFIXES[format];
    const link = element('a', { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    say(`Saved ${name}.`);
  } catch (error) {
    complain(error);
  }
};

const pressed = (on) => {
  find('microphone').ariaPressed = String(on);
  find('microphone').textContent = on ? 'Stop and judge' : 'Use the microphone';
  find('choose').disabled = on;
  find('live').hidden = !on;
};

const startRecording = async () => {
  complain(null);
  state.asked++; // a recording that is still being judged is not shown any more
  find('result').hidden = find('progress').hidden = true;
  let live, socket, sound;
  try {
    if (!state.model) await loadModel();
    live = new Live(find('live'), state.colours);
    sound = await record((chunk) => {
      live.hear(chunk, sound?.rate ?? 48_000);
      socket?.send(toPcm16(chunk));
    });
  } catch (error) {
    live?.close();
    const denied = error.name === 'NotAllowedError' || error.name === 'NotFoundError';
    complain(denied ? new Error('There is no microphone, or the browser may not use it.') : error);
    return;
  }
  const heard = (event) => {
    const told = live.take(event);
    if (told) say(told);
  };
  socket = api.stream(sound.rate, options(), heard, (error) => state.recording && find('problem').hidden && complain(error));
  state.recording = { live, socket, sound };
  pressed(true);
  say('Listening.');
};

const stopRecording = async () => {
  const { live, socket, sound } = state.recording;
  state.recording = null;
  const samples = await sound.stop();
  socket.end();
  live.close();
  pressed(false);
  const name = `recording ${new Date().toISOString().slice(0, 19).replaceAll(':', '.')}.wav`;
  if (samples.length > 0) await open(new File([wav(samples, sound.rate)], name, { type: 'audio/wav' }));
};

const connect = () => {
  find('choose').onclick = () => find('file').click();
  find('file').onchange = ({ target }) => {
    if (target.files.length) open(target.files[0]);
    target.value = '';
  };
  find('microphone').onclick = () => (state.recording ? stopRecording() : startRecording());
  find('play').onclick = () => state.wave?.playPause();
  find('threshold').oninput = ({ target }) => (find('threshold-shown').textContent = `${target.value} %`);
  find('threshold').onchange = () => state.file && !state.recording && open(state.file);
  find('fields').onsubmit = (event) => event.preventDefault();
  find('token').onchange = () => loadModel().then(() => complain(null), complain);
  document.querySelectorAll('[data-format]').forEach((button) => (button.onclick = () => download(button.dataset.format)));
  const drop = find('drop');
  for (const kind of ['dragenter', 'dragover']) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add('over');
    });
  }
  for (const kind of ['dragleave', 'drop']) document.addEventListener(kind, () => drop.classList.remove('over'));
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length && !state.recording) open(event.dataTransfer.files[0]);
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => state.row && showWave());
};

introduce();
connect();
say('Loading the model …', true);
loadModel().then(() => find('status').textContent.startsWith('Loading') && say('Ready.'), complain);
