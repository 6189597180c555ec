// The page that needs no server: a recording in, its emotion out, all of it here.

import { decode, Recognizer, SAMPLE_RATE } from './recognizer.js';
import { record, wav } from './sound.js';
import { bars, cssColour, drawWave, headline, teacherViews, time, UNSURE } from './view.js';
import WaveSurfer from './vendor/wavesurfer.esm.js';

const find = (id) => document.getElementById(id);
const state = { recognizer: null, wave: null, recording: null };

const say = (text, busy = false) => {
  find('status').textContent = text;
  find('status').classList.toggle('busy', busy);
};

const complain = (text) => {
  find('problem').textContent = text;
  find('problem').hidden = !text;
  if (text) say('');
};

const open = async (file) => {
  complain('');
  find('result').hidden = true;
  say(`Judging ${file.name} …`, true);
  let samples;
  try {
    samples = await decode(file);
  } catch {
    complain(`${file.name}: this browser cannot decode it as audio.`);
    return;
  }
  const row = await state.recognizer.predict(samples);
  show(file, row, samples.length / SAMPLE_RATE);
  say(`${file.name}: ${row.emotion ?? row.reason}.`);
};

const show = (file, row, length) => {
  const { colours } = state.recognizer.card;
  find('result').hidden = false;
  find('result-title').textContent = file.name;
  find('clock').textContent = time(length);
  find('headline').replaceChildren(...headline(row, colours));
  find('bars').replaceChildren(row.emotion ? bars(row.probabilities, colours, 'Probabilities') : 'No probabilities: there is nothing to judge.');
  find('teachers').replaceChildren(...teacherViews(row.teachers, colours));
  state.wave?.destroy();
  state.wave = WaveSurfer.create({
    container: find('wave'), height: 128, cursorColor: cssColour('--ink'), cursorWidth: 2, progressColor: 'transparent', hideScrollbar: true,
    renderFunction: drawWave(() => (row.emotion ? colours[row.emotion] : UNSURE)),
  });
  state.wave.on('play', () => (find('play').textContent = 'Pause'));
  state.wave.on('pause', () => (find('play').textContent = 'Play'));
  state.wave.on('finish', () => (find('play').textContent = 'Play'));
  state.wave.loadBlob(file);
  find('result').focus({ preventScroll: true });
  find('result').scrollIntoView({ block: 'start' });
};

const pressed = (on) => {
  find('microphone').ariaPressed = String(on);
  find('microphone').textContent = on ? 'Stop and judge' : 'Use the microphone';
  find('choose').disabled = on;
};

const toggle = async () => {
  if (!state.recording) {
    complain('');
    try {
      state.recording = await record(() => {});
    } catch {
      complain('There is no microphone, or the browser may not use it.');
      return;
    }
    pressed(true);
    say('Listening.');
    return;
  }
  const { rate } = state.recording;
  const samples = await state.recording.stop();
  state.recording = null;
  pressed(false);
  if (samples.length > 0) await open(new File([wav(samples, rate)], 'recording.wav', { type: 'audio/wav' }));
};

find('choose').onclick = () => find('file').click();
find('microphone').onclick = toggle;
find('play').onclick = () => state.wave?.playPause();
find('file').onchange = ({ target }) => {
  if (target.files.length) open(target.files[0]);
  target.value = '';
};
document.addEventListener('dragover', (event) => event.preventDefault());
document.addEventListener('drop', (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length && state.recognizer) open(event.dataTransfer.files[0]);
});

try {
  state.recognizer = await Recognizer.load();
  const { card } = state.recognizer;
  find('model').textContent = `${card.name}, ${(card.num_parameters / 1e6).toFixed(1)} M parameters`;
  find('limits').textContent = `${card.limits} ${card.intended_use}`;
  find('choose').disabled = find('microphone').disabled = false;
  say('Ready.');
} catch (error) {
  complain(`The model cannot be loaded: ${error.message}`);
}
