// The page of the server and the static page: takes files or the microphone, and shows the emotions over
// time. `api.js` calls the recogniser: on the server, or in this browser.

import * as api from './api.js';
import FORMATS from './formats.js';
import { FileList } from './files.js';
import { LiveView } from './live.js';
import { cut, decodeAudio, peaksOf, record, toPcm16, wav } from './sound.js';
import { Strip } from './strip.js';
import {
  asWhole, bars, dimensionBars, element, formatClock, formatTime, inShort, nameOf, NO_ANSWER, percent,
  shortTimes, speakerItems, swatch, teacherViews, UNSURE_COLOUR,
} from './view.js';

const find = (id) => document.getElementById(id);
const MAX_TEACHERS_S = 30; // of a segment, for the predictions of its teachers

const state = {
  model: null, colours: {}, // emotion -> colour
  file: null, timeline: null, options: null, // what is shown
  selected: null, // index of a segment
  buffer: null, sound: null, // the decoded samples of the file, and what can be played (Blob)
  recording: null, // while the microphone is on
};

// What the analysis of all files depends on.
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

const showAbout = () => {
  find('privacy').textContent = api.ABOUT.privacy;
  for (const [textContent, href] of api.ABOUT.links) {
    find('links').append(element('a', { textContent, href }), ' · ');
  }
  for (const part of document.querySelectorAll('[for="token"], #token')) part.hidden = !api.ABOUT.token;
};

const loadModel = async () => {
  const { models: [model] } = await api.models(options().token);
  const millions = (model.num_parameters / 1e6).toFixed(1);
  find('model').textContent = `${model.name} (${millions} million parameters)`;
  if (!Object.keys(model.colours).length) {
    for (const id of ['choose', 'microphone']) find(id).disabled = true;
    throw new Error(`The model ${model.name} predicts dimensions alone, and this page shows emotions. `
      + 'Send files to v1/predict instead.');
  }
  state.model = model;
  state.colours = state.model.colours;
  find('comparison').hidden = state.model.voice_dim === null;
  find('limits').textContent = `${state.model.limits} ${state.model.intended_use}`;
};

const colourOf = (segment) => (segment.emotion ? state.colours[segment.emotion] : UNSURE_COLOUR);

const analyse = async ({ file, split, names }, { signal, onProgress }) => {
  if (!state.model) await loadModel();
  const chosen = { ...options(), split, names };
  const timeline = await api.timeline(file, { ...chosen, signal, onProgress });
  if (timeline.error) throw new Error(timeline.error);
  return { timeline, options: chosen };
};

const describe = ({ timeline }) => inShort(timeline, state.colours);

// Tell screen readers what happened to a file.
const onState = ({ file, state: fileState, result, error }) => {
  if (fileState === 'working') showStatus(`Analysing ${file.name} …`, true);
  if (fileState === 'cancelled') showStatus(`${file.name}: cancelled.`);
  if (fileState === 'failed' && error.status === 401) showError(error);
  else if (fileState === 'failed') showStatus(`${file.name}: ${error.message}`);
  if (fileState === 'done') showStatus(countOf(file, result));
};

const countOf = (file, { timeline: { segments, duration_s } }) => {
  const number = segments.length || 'no';
  const count = `${number} ${number === 1 ? 'segment' : 'segments'}`;
  return `${file.name}: ${count} in ${formatTime(duration_s)}.`;
};

// Show the entry of a file: its result, its error, or nothing while it is being analysed.
const showEntry = (entry) => {
  if (!entry) {
    showNothing();
    return;
  }
  const { file, result, error } = entry;
  find('channels').hidden = !entry.hasChannels;
  find('split').checked = Boolean(entry.split);
  find('names').value = entry.names ?? '';
  showError(error && new Error(`${file.name}: ${error.message}`));
  if (state.file !== file) state.buffer = null;
  Object.assign(state, { file, timeline: null, ...result, selected: null });
  find('result').hidden = !result;
  if (result && !files.working) showStatus(countOf(file, result));
  if (result) showResult(entry);
  else strip.close();
};

// The list of files is empty.
const showNothing = () => {
  Object.assign(state, { file: null, timeline: null, buffer: null, sound: null, selected: null });
  strip.close();
  showError(null);
  for (const id of ['result', 'channels']) find(id).hidden = true;
  showStatus('Ready.');
  find('choose').focus();
};

const showResult = async (entry) => {
  const { timeline, file } = state;
  find('result-title').textContent = file.name;
  showTime(null);
  find('headline').replaceChildren(...asWhole(timeline, state.options.compared, state.colours));
  find('speakers').replaceChildren(...speakerItems(timeline, state.colours));
  strip.showTimeline(timeline, state.colours);
  find('rows').replaceChildren(...timeline.segments.map(segmentRow));
  find('list').hidden = timeline.segments.length === 0;
  showLegend();
  select(timeline.segments.length === 1 ? 0 : null);
  find('result').focus({ preventScroll: true });
  find('result').scrollIntoView({ block: 'start', behavior: 'instant' });
  await showSound();
  if (state.timeline !== timeline || !(state.buffer?.numberOfChannels > 1)) return;
  entry.hasChannels = true;
  find('channels').hidden = false;
};

const showTime = (now) => {
  const { duration_s } = state.timeline;
  const whole = formatTime(duration_s);
  find('clock').textContent = now === null ? whole : `${formatTime(now)} of ${whole}`;
};

// Decode the shown file, so that it can be drawn and played.
const showSound = async () => {
  const { file, timeline } = state;
  const isOutdated = () => state.timeline !== timeline;
  try {
    let sound = file;
    let buffer = state.buffer;
    buffer ??= await decodeAudio(file).catch(async () => {
      sound = await api.playable(file, options());
      return decodeAudio(sound);
    });
    if (isOutdated()) return;
    Object.assign(state, { buffer, sound: state.buffer ? state.sound : sound });
    await strip.showSound(state.sound, peaksOf(buffer));
  } catch {
    if (!isOutdated()) showStatus(`${file.name} cannot be played here, but you can see its emotions below.`);
  }
};

// Nothing for a segment below the minimum confidence, whose name is already 'no answer'.
const suretyOf = ({ emotion, surety }) => (emotion ? surety : undefined);

const segmentRow = (segment, index) => {
  const row = element('tr', {});
  row.dataset.index = index;
  const button = element('button', { type: 'button', textContent: formatClock(segment.start_s) });
  button.setAttribute('aria-label', `Play ${nameOf(segment)}, ${shortTimes(segment)}`);
  button.tabIndex = index === 0 ? 0 : -1;
  button.onclick = () => playSegment(index);
  const speaker = segment.speaker ? [element('small', { textContent: segment.speaker })] : [];
  const surety = suretyOf(segment) ? [element('small', { textContent: segment.surety })] : [];
  const emotion = element('td', {}, swatch(colourOf(segment)), nameOf(segment), ...surety);
  const confidence = segment.confidence === null ? '' : percent(segment.confidence);
  row.append(element('td', {}, button, ...speaker), emotion, element('td', { textContent: confidence }));
  return row;
};

const showLegend = () => {
  const { segments, summary } = state.timeline;
  const seconds = Object.entries(summary).filter(([, value]) => value > 0);
  const withoutEmotion = segments.filter(({ emotion }) => !emotion);
  const unanswered = withoutEmotion.reduce((sum, { start_s, end_s }) => sum + end_s - start_s, 0);
  if (unanswered > 0) seconds.push([NO_ANSWER, unanswered]);
  const items = seconds.map(([emotion, value]) =>
    element('li', {}, swatch(state.colours[emotion] ?? UNSURE_COLOUR), `${emotion} ${formatTime(value)}`),
  );
  find('legend').replaceChildren(...items);
};

// Whether smoothing gave a segment another emotion than the one with its highest probability.
const keepsEmotion = ({ emotion, probabilities }) =>
  emotion !== null && Object.values(probabilities).some((value) => value > probabilities[emotion]);

// Show the probabilities of a segment; a hint if `index` is null.
const select = (index) => {
  state.selected = index;
  strip.select(index);
  selectRow(index);
  const segment = state.timeline.segments[index];
  const hasValues = segment && Object.keys(segment.probabilities).length > 0;
  const title = segment ? `Segment ${shortTimes(segment)}` : 'Probabilities';
  find('selection-title').textContent = title + (segment && suretyOf(segment) ? `: ${segment.surety}` : '');
  const hint = 'Select a segment to see its probabilities.';
  find('bars').replaceChildren(hasValues ? bars(segment.probabilities, state.colours, title) : hint);
  if (hasValues && keepsEmotion(segment)) {
    const text = `The segment keeps the emotion of the speech around it: ${segment.emotion}.`;
    find('bars').append(element('p', { className: 'quiet', textContent: text }));
  }
  find('dimensions').replaceChildren(...dimensionBars(segment ? [segment] : state.timeline.segments));
  find('details').hidden = state.timeline.segments.length === 0;
  find('teachers').replaceChildren();
};

// Mark the row of a segment in the list, and scroll the list to it.
const selectRow = (index) => {
  const list = find('list');
  for (const row of find('rows').querySelectorAll('[aria-current]')) row.removeAttribute('aria-current');
  const row = index === null ? null : find('rows').children[index];
  if (!row) return;
  row.setAttribute('aria-current', 'true');
  for (const button of find('rows').querySelectorAll('[tabindex="0"]')) button.tabIndex = -1;
  row.querySelector('button').tabIndex = 0;
  const top = row.offsetTop - list.querySelector('thead').offsetHeight;
  if (top < list.scrollTop || row.offsetTop + row.offsetHeight > list.scrollTop + list.clientHeight) {
    list.scrollTop = top - list.clientHeight / 3;
  }
};

const playSegment = async (index) => {
  select(index);
  const segment = state.timeline.segments[index];
  if (!state.buffer) return;
  strip.play(segment);
  const { compared, split } = state.options;
  // The teachers compare with no voice and hear all channels, so they would not fit.
  if (compared || split) return;
  const { start_s, end_s } = segment;
  const { buffer, timeline } = state;
  try {
    const file = wav(cut(buffer, start_s, Math.min(end_s, start_s + MAX_TEACHERS_S)), buffer.sampleRate);
    const { teachers } = await api.predict(file, { ...options(), threshold: 0 });
    if (state.timeline !== timeline || state.selected !== index) return;
    find('teachers').replaceChildren(...teacherViews(teachers, state.colours));
  } catch (error) {
    showError(error);
  }
};

const download = async (format) => {
  const { file } = state;
  const name = file.name.replace(/\.[^.]*$/, '') + format.suffix;
  showStatus(`Writing ${name} …`, true);
  try {
    const blob = await api.timelineAs(file, format, state.options);
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
  files.pause(); // the live view needs the recogniser
  find('result').hidden = true;
  strip.close();
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
    files.resume();
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
  const name = `recording ${new Date().toLocaleString('sv').replaceAll(':', '.')}.wav`;
  files.resume();
  if (samples.length === 0) {
    if (files.shown) showEntry(files.shown);
    return;
  }
  files.add([new File([wav(samples, microphone.rate)], name, { type: 'audio/wav' })]);
};

const addDownloadButtons = () => {
  for (const format of FORMATS) {
    const button = element('button', { type: 'button', textContent: format.title });
    button.dataset.format = format.name;
    button.onclick = () => download(format);
    find('downloads').append(button);
  }
};

const moveInList = (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const index = Number(event.target.closest('tr')?.dataset.index) + step;
  if (!step || !state.timeline.segments[index]) return;
  event.preventDefault();
  select(index);
  find('rows').children[index].querySelector('button').focus({ preventScroll: true });
};

const addHandlers = () => {
  find('choose').onclick = () => find('file').click();
  find('file').onchange = ({ target }) => {
    files.add(target.files);
    target.value = '';
  };
  find('microphone').onclick = () => (state.recording ? stopRecording() : startRecording());
  find('threshold').oninput = ({ target }) => (find('threshold-shown').textContent = `${target.value} %`);
  for (const id of ['threshold', 'compared']) find(id).onchange = () => files.restart();
  for (const id of ['split', 'names']) {
    find(id).onchange = () => {
      const [split, names] = [find('split').checked, find('names').value.trim()];
      const wasSplit = files.shown.split;
      Object.assign(files.shown, { split, names });
      if (split || wasSplit) files.restart([files.shown]);
    };
  }
  find('rows').onkeydown = moveInList;
  find('fields').onsubmit = (event) => event.preventDefault();
  find('token').onchange = () =>
    loadModel().then(() => {
      showError(null);
      files.restart();
    }, showError);
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
    if (!state.recording) files.add(event.dataTransfer.files);
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => state.timeline && showSound());
};

const strip = new Strip({ onSelect: select, onPlay: playSegment, onTime: showTime });
const files = new FileList(find('files'), { analyse, describe, onShow: showEntry, onState });
showAbout();
addDownloadButtons();
addHandlers();
showStatus('Loading the model …', true);
loadModel().then(() => find('status').textContent.startsWith('Loading') && showStatus('Ready.'), showError);
