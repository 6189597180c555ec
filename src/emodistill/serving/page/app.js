// The page of the server and the static page: takes a file or the microphone, and shows the emotions over
// time. `api.js` calls the recogniser: on the server, or in this browser.

import * as api from './api.js';
import FORMATS from './formats.js';
import { LiveView } from './live.js';
import { cut, record, toPcm16, wav } from './sound.js';
import {
  bars, comparedHeadline, cssColour, drawWave, element, formatTime, headline, percent, REASONS, swatch, teacherViews,
  textColourOn, UNSURE_COLOUR,
} from './view.js';
import WaveSurfer from './vendor/wavesurfer.esm.js';

const find = (id) => document.getElementById(id);
const MAX_TEACHERS_S = 30; // of a segment, for the predictions of its teachers
const MODEL_HZ = 16_000; // rate of the model's input, and so of what the page cuts out for it

const state = {
  model: null, colours: {}, // emotion -> colour
  file: null, timeline: null, prediction: null, // what is shown
  compared: false, // whether what is shown was compared with the voice's usual
  selected: null, // index of a segment
  wave: null, buffer: null, // the waveform, and its decoded samples
  recording: null, // while the microphone is on
  openings: 0, // how often a file was opened: an older one that is still being analysed is not shown
};

const options = () => ({
  token: find('token').value.trim(), threshold: Number(find('threshold').value) / 100,
  compared: !find('comparison').hidden && find('compared').checked,
});

const showStatus = (text, busy = false) => {
  find('status').textContent = text;
  find('status').classList.toggle('busy', busy);
};

const showError = (error) => {
  if (error?.status === 401) find('options').open = true;
  find('problem').textContent = error ? error.message : '';
  find('problem').hidden = !error;
  if (error) showStatus('');
};

// Returns a function that moves the progress bar between two shares of its length. It does nothing once
// another file was opened.
const progressBetween = (from, to, opening = state.openings) => (share) => {
  if (opening !== state.openings) return;
  find('progress').hidden = false;
  find('progress').value = from + (to - from) * share;
};

const showAbout = () => {
  find('privacy').textContent = api.ABOUT.privacy;
  for (const [textContent, href] of api.ABOUT.links) {
    find('links').append(element('a', { textContent, href }), ' · ');
  }
  for (const part of document.querySelectorAll('[for="token"], #token')) part.hidden = !api.ABOUT.token;
};

const loadModel = async () => {
  const { models } = await api.models(options().token);
  [state.model] = models;
  state.colours = state.model.colours;
  const millions = (state.model.num_parameters / 1e6).toFixed(1);
  find('model').textContent = `${state.model.name} (${millions} million parameters)`;
  find('comparison').hidden = state.model.voice_dim === null;
  find('limits').textContent = `${state.model.limits} ${state.model.intended_use}`;
};

const colourOf = (segment) => (segment.emotion ? state.colours[segment.emotion] : UNSURE_COLOUR);
const nameOf = (segment) => segment.emotion ?? 'unsure';
const shortTimes = ({ start_s, end_s }) => `${start_s.toFixed(1)} to ${end_s.toFixed(1)} s`;

const openFile = async (file) => {
  const opening = ++state.openings;
  showError(null);
  find('result').hidden = true;
  showStatus(`Analysing ${file.name} …`, true);
  try {
    if (!state.model) await loadModel();
    const { compared } = options();
    const timelineEnd = compared ? 1 : 0.6; // as a share of the progress bar
    const onProgress = progressBetween(0, timelineEnd);
    const timeline = await api.timeline(file, { ...options(), compared, onProgress });
    if (timeline.error) throw new Error(`${file.name}: ${timeline.error}`);
    // A whole recording that is compared with itself has nothing that differs from its usual.
    const prediction = compared ? null : await predictWhole(file, progressBetween(timelineEnd, 1));
    if (opening !== state.openings) return;
    Object.assign(state, { file, timeline, prediction, compared, selected: null, buffer: null });
    await showResult();
    const { segments, duration_s } = timeline;
    const number = segments.length || 'no';
    const count = `${number} ${number === 1 ? 'segment' : 'segments'}`;
    showStatus(`${file.name}: ${count} in ${formatTime(duration_s)}.`);
  } catch (error) {
    if (opening === state.openings) showError(error);
  } finally {
    if (opening === state.openings) find('progress').hidden = true;
  }
};

// The prediction for a whole recording; null if the recording is too long for one.
const predictWhole = (file, onProgress) =>
  api.predict(file, { ...options(), onProgress }).catch((error) => {
    if (error.status === 413) return null;
    throw error;
  });

// The sentence above a result, as nodes.
const resultHeadline = () => {
  const { timeline, prediction, compared } = state;
  if (prediction) return headline(prediction, state.colours);
  if (timeline.reason) return [REASONS[timeline.reason]];
  if (compared) return comparedHeadline(timeline, state.colours);
  return ['The recording is too long for one emotion. The segments show its emotions over time.'];
};

const showResult = async () => {
  const { timeline, file, prediction } = state;
  find('result').hidden = false;
  find('result-title').textContent = file.name;
  find('clock').textContent = formatTime(timeline.duration_s);
  const changes = prediction && new Set(timeline.segments.map(({ emotion }) => emotion)).size > 1;
  find('headline').replaceChildren(...resultHeadline(), changes ? '. The emotions change: see the segments.' : '');
  showSegments();
  showLegend();
  select(null);
  find('result').focus({ preventScroll: true });
  find('result').scrollIntoView({ block: 'start', behavior: 'instant' });
  await showWave();
};

const showWave = async () => {
  state.wave?.destroy();
  const { segments, duration_s } = state.timeline;
  const indexAt = (seconds) =>
    segments.findIndex(({ start_s, end_s }) => start_s <= seconds && seconds < end_s);
  const colourAt = (share) => {
    const segment = segments[indexAt(share * duration_s)];
    return segment ? colourOf(segment) : cssColour('--wave');
  };
  const wave = WaveSurfer.create({
    container: find('wave'), height: 128, cursorColor: cssColour('--ink'), cursorWidth: 2,
    progressColor: 'transparent', hideScrollbar: true, sampleRate: MODEL_HZ,
    renderFunction: drawWave(colourAt),
  });
  state.wave = wave;
  find('play').disabled = true;
  wave.on('play', () => (find('play').textContent = 'Pause'));
  wave.on('pause', () => (find('play').textContent = 'Play'));
  wave.on('finish', () => (find('play').textContent = 'Play'));
  wave.on('timeupdate', (now) => {
    find('clock').textContent = `${formatTime(now)} of ${formatTime(duration_s)}`;
  });
  wave.on('interaction', (now) => {
    const index = indexAt(now);
    select(index < 0 ? null : index);
  });
  try {
    await wave.loadBlob(state.file);
    state.buffer = wave.getDecodedData();
    find('play').disabled = false;
  } catch {
    showStatus(`This browser cannot play ${state.file.name}, but you can see its emotions below.`);
  }
};

const segmentButton = (segment, index, duration_s) => {
  const button = element('button', { type: 'button', ariaPressed: 'false' });
  button.append(element('span', { textContent: nameOf(segment) }));
  button.title = `${nameOf(segment)}, ${percent(segment.confidence)}, ${shortTimes(segment)}`;
  button.setAttribute('aria-label', `${button.title}: play`);
  button.style.left = `${(100 * segment.start_s) / duration_s}%`;
  button.style.width = `${(100 * (segment.end_s - segment.start_s)) / duration_s}%`;
  button.style.background = colourOf(segment);
  button.style.color = textColourOn(colourOf(segment));
  button.onclick = () => playSegment(index);
  return button;
};

const segmentRow = (segment, index) => {
  const button = element('button', { type: 'button', textContent: 'Play' });
  button.onclick = () => playSegment(index);
  button.setAttribute('aria-label', `Play ${shortTimes(segment)}`);
  const times = [segment.start_s, segment.end_s];
  return element(
    'tr', {},
    ...times.map((seconds) => element('td', { textContent: seconds.toFixed(2) })),
    element('td', {}, swatch(colourOf(segment)), nameOf(segment)),
    element('td', { textContent: percent(segment.confidence) }),
    element('td', {}, button),
  );
};

const showSegments = () => {
  const { segments, duration_s } = state.timeline;
  const buttons = segments.map((segment, index) => segmentButton(segment, index, duration_s));
  find('segments').replaceChildren(...buttons);
  find('rows').replaceChildren(...segments.map(segmentRow));
  find('segments').hidden = segments.length === 0;
  find('list').hidden = segments.length === 0;
};

const showLegend = () => {
  const { segments, summary } = state.timeline;
  const seconds = Object.entries(summary).filter(([, value]) => value > 0);
  const unsureSegments = segments.filter(({ emotion }) => !emotion);
  const unsure = unsureSegments.reduce((sum, { start_s, end_s }) => sum + end_s - start_s, 0);
  if (unsure > 0) seconds.push(['unsure', unsure]);
  const items = seconds.map(([emotion, value]) =>
    element('li', {}, swatch(state.colours[emotion] ?? UNSURE_COLOUR), `${emotion} ${value.toFixed(1)} s`),
  );
  find('legend').replaceChildren(...items);
};

// Show the probabilities of a segment, or of the whole recording if `index` is null.
const select = (index) => {
  state.selected = index;
  const segment = index === null ? null : state.timeline.segments[index];
  [...find('segments').children].forEach((button, at) => (button.ariaPressed = String(at === index)));
  const probabilities = segment ? segment.probabilities : state.prediction?.probabilities;
  const isEmpty = !probabilities || Object.keys(probabilities).length === 0;
  const whole = isEmpty ? 'Probabilities' : 'Whole recording';
  const title = segment ? `Segment ${shortTimes(segment)}` : whole;
  find('selection-title').textContent = title;
  const hint = 'Select a segment to see its probabilities.';
  find('bars').replaceChildren(isEmpty ? hint : bars(probabilities, state.colours, title));
  find('details').hidden = isEmpty && state.timeline.segments.length === 0;
  const teachers = segment ? [] : teacherViews(state.prediction?.teachers, state.colours);
  find('teachers').replaceChildren(...teachers);
};

const playSegment = async (index) => {
  select(index);
  const { start_s, end_s } = state.timeline.segments[index];
  if (!state.buffer) return;
  state.wave.play(start_s, end_s);
  if (state.compared) return; // the teachers compare with no voice, so they would not fit
  const samples = cut(state.buffer, start_s, Math.min(end_s, start_s + MAX_TEACHERS_S));
  try {
    const file = wav(samples, state.buffer.sampleRate);
    const { teachers } = await api.predict(file, { ...options(), threshold: 0 });
    if (state.selected === index) find('teachers').replaceChildren(...teacherViews(teachers, state.colours));
  } catch (error) {
    showError(error);
  }
};

const download = async (format) => {
  try {
    const { file, compared } = state;
    const blob = await api.timelineAs(file, format, { ...options(), compared });
    const name = file.name.replace(/\.[^.]*$/, '') + format.suffix;
    const link = element('a', { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    showStatus(`Saved ${name}.`);
  } catch (error) {
    showError(error);
  }
};

const showRecording = (on) => {
  find('microphone').ariaPressed = String(on);
  find('microphone').textContent = on ? 'Stop and analyse' : 'Use the microphone';
  find('choose').disabled = on;
  find('live').hidden = !on;
};

const startRecording = async () => {
  showError(null);
  state.openings++; // so that a file that is still being analysed does not appear during the recording
  find('result').hidden = find('progress').hidden = true;
  let view, socket, microphone;
  try {
    if (!state.model) await loadModel();
    view = new LiveView(find('live'), state.colours);
    microphone = await record((chunk) => {
      view.addSamples(chunk, microphone?.rate ?? 48_000);
      socket?.send(toPcm16(chunk));
    });
  } catch (error) {
    view?.close();
    const unavailable = error.name === 'NotAllowedError' || error.name === 'NotFoundError';
    const message = 'The microphone cannot be used. Connect one, and allow this page to use it.';
    showError(unavailable ? new Error(message) : error);
    return;
  }
  const onEvent = (event) => {
    const text = view.showEvent(event);
    if (text) showStatus(text);
  };
  const onError = (error) => state.recording && find('problem').hidden && showError(error);
  socket = api.stream(microphone.rate, options(), onEvent, onError);
  state.recording = { view, socket, microphone };
  showRecording(true);
  showStatus('Listening …');
};

const stopRecording = async () => {
  const { view, socket, microphone } = state.recording;
  state.recording = null;
  const samples = await microphone.stop();
  socket.end();
  view.close();
  showRecording(false);
  const name = `recording ${new Date().toISOString().slice(0, 19).replaceAll(':', '.')}.wav`;
  if (samples.length === 0) return;
  await openFile(new File([wav(samples, microphone.rate)], name, { type: 'audio/wav' }));
};

const addDownloadButtons = () => {
  for (const format of FORMATS) {
    const button = element('button', { type: 'button', textContent: format.title });
    button.dataset.format = format.name;
    button.onclick = () => download(format);
    find('downloads').append(button);
  }
};

const addHandlers = () => {
  find('choose').onclick = () => find('file').click();
  find('file').onchange = ({ target }) => {
    if (target.files.length) openFile(target.files[0]);
    target.value = '';
  };
  find('microphone').onclick = () => (state.recording ? stopRecording() : startRecording());
  find('play').onclick = () => state.wave?.playPause();
  find('threshold').oninput = ({ target }) => (find('threshold-shown').textContent = `${target.value} %`);
  find('threshold').onchange = () => state.file && !state.recording && openFile(state.file);
  find('compared').onchange = () => state.file && !state.recording && openFile(state.file);
  find('fields').onsubmit = (event) => event.preventDefault();
  find('token').onchange = () => loadModel().then(() => showError(null), showError);
  const drop = find('drop');
  for (const kind of ['dragenter', 'dragover']) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add('over');
    });
  }
  for (const kind of ['dragleave', 'drop']) {
    document.addEventListener(kind, () => drop.classList.remove('over'));
  }
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length && !state.recording) openFile(event.dataTransfer.files[0]);
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => state.timeline && showWave());
};

showAbout();
addDownloadButtons();
addHandlers();
showStatus('Loading the model …', true);
loadModel().then(() => find('status').textContent.startsWith('Loading') && showStatus('Ready.'), showError);
