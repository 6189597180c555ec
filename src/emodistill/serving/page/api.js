// The page's calls to the server. The static page has another file in place of this one, with the same
// functions: `assets/web/api.js`.

export const ABOUT = {
  privacy: 'Any audio or video file. The server keeps no copy of it. It keeps the result of a file over 4 MB for an hour.',
  links: [['OpenAPI document', 'openapi.json'], ['Model card', 'v1/models']],
  token: true, // whether to show the field for an access token
};

class ServerError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const headers = (token, accept = 'application/json') => ({
  Accept: accept,
  ...(token && { Authorization: `Bearer ${token}` }),
});

const check = async (response) => {
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const detail = problem.detail ?? `The server answered with status ${response.status}.`;
  throw new ServerError(response.status, detail);
};

const UNREACHABLE = 'The server cannot be reached. Is it still running?';

export const models = async (token) => {
  const response = await fetch('v1/models', { headers: headers(token) }).catch(() => {
    throw new Error(UNREACHABLE);
  });
  return (await check(response)).json();
};

// Send a file as a form. `onProgress` gets { text, share }: first of the upload, then of the server's work.
const post = (path, file, { token, threshold, mediaType, fields = {}, onProgress = () => {}, signal }) =>
  new Promise((resolve, reject) => {
    const form = new FormData();
    form.append('files', file, file.name ?? 'recording.wav');
    if (threshold > 0) form.append('min_confidence', String(threshold));
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    const call = new XMLHttpRequest(); // `fetch` does not report the progress of an upload
    call.open('POST', path);
    for (const [name, value] of Object.entries(headers(token, mediaType))) call.setRequestHeader(name, value);
    call.responseType = 'blob';
    let timer;
    const showWork = () => {
      const began = Date.now();
      const show = () => {
        const seconds = Math.round((Date.now() - began) / 1000);
        onProgress({ text: `the server is working: ${seconds} s`, share: null });
      };
      show();
      timer = setInterval(show, 1000);
    };
    call.upload.onprogress = ({ loaded, total }) =>
      onProgress({ text: `uploading: ${Math.floor((100 * loaded) / total)} %`, share: loaded / total });
    call.upload.onload = showWork;
    call.onload = () => resolve(check(new Response(call.response, { status: call.status })));
    call.onerror = () => reject(new Error(UNREACHABLE));
    call.onloadend = () => clearInterval(timer);
    signal?.addEventListener('abort', () => {
      call.abort();
      reject(signal.reason);
    });
    if (signal?.aborted) reject(signal.reason);
    else call.send(form);
  });

// `compared`: compare each part with the usual of the whole recording. `split`: each channel by itself, with
// the `names` of the speakers.
const timelineFields = ({ compared, split, names }) => ({
  ...(compared && { adapt: 'recording' }), ...(split && { channels: 'split' }),
  ...(split && names && { names }),
});
const postTimeline = (file, options) =>
  post('v1/timeline', file, { ...options, fields: timelineFields(options) });

// A larger file is a job: the server tells how much of it is done, and stops when the user cancels it.
const JOB_BYTES = 4e6;
const POLL_MS = 1000;
const jobs = new WeakMap(); // file -> the job of its last timeline: { id, key }
const keyOf = ({ threshold, ...options }) => JSON.stringify([threshold, timelineFields(options)]);

const wait = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });

const timelineOfJob = async (file, options) => {
  const { token, signal, onProgress = () => {} } = options;
  const submitted = await post('v1/jobs', file, { ...options, fields: timelineFields(options) });
  const { id } = await submitted.json();
  const remove = () => fetch(`v1/jobs/${id}`, { method: 'DELETE', headers: headers(token) }).catch(() => {});
  signal?.addEventListener('abort', remove, { once: true });
  if (signal?.aborted) remove();
  for (;;) {
    await wait(POLL_MS, signal);
    const response = await fetch(`v1/jobs/${id}`, { headers: headers(token) }).catch(() => {
      throw new Error(UNREACHABLE);
    });
    if (response.status === 429) {
      await wait(1000 * Number(response.headers.get('Retry-After') ?? 1), signal);
      continue;
    }
    const { state, progress = 0, result, problem } = await (await check(response)).json();
    if (state === 'failed') throw new ServerError(problem.status, problem.detail);
    if (state === 'done') {
      signal?.removeEventListener('abort', remove);
      jobs.set(file, { id, key: keyOf(options) });
      return result[0];
    }
    const done = Math.floor(100 * progress);
    if (state === 'waiting') onProgress({ text: 'waiting for the server', share: null });
    else onProgress({ text: `the server is working: ${done} %`, share: progress });
  }
};

export const timeline = async (file, options) => {
  jobs.delete(file);
  if (file.size >= JOB_BYTES) return timelineOfJob(file, options);
  return (await (await postTimeline(file, options)).json())[0];
};

export const timelineAs = async (file, { mediaType }, options) => {
  const job = jobs.get(file);
  if (job?.key === keyOf(options)) {
    // The server keeps the result of a job for an hour.
    const response = await fetch(`v1/jobs/${job.id}/result`, { headers: headers(options.token, mediaType) });
    if (response.ok) return response.blob();
  }
  return (await postTimeline(file, { ...options, mediaType })).blob();
};

export const predict = async (file, options) =>
  (await (await post('v1/predict', file, { ...options, fields: { teachers: 'true' } })).json())[0];

// The sound of a recording that this browser cannot play, decoded by the server.
export const playable = async (file, { token }) =>
  (await post('v1/audio', file, { token, mediaType: 'audio/mpeg' })).blob();

// Open a stream of 16-bit PCM. Call `send` with each chunk, then `end`. `onEvent` gets the server's events,
// and `onError` the reason if the stream ends early. `compared`: compare with the speech so far.
export const stream = (rate, { token, threshold, compared }, onEvent, onError) => {
  const address = new URL('v1/stream', location.href);
  address.protocol = address.protocol.replace('http', 'ws');
  const socket = new WebSocket(address);
  socket.binaryType = 'arraybuffer';
  const unsent = []; // messages from before the connection was open
  socket.onopen = () => {
    const options = {
      ...(threshold > 0 && { min_confidence: threshold }), ...(token && { token }),
      ...(compared && { adapt: 'running' }),
    };
    socket.send(JSON.stringify({ encoding: 'pcm16', rate, ...options }));
    unsent.splice(0).forEach((data) => socket.send(data));
  };
  const send = (data) => {
    if (socket.readyState === WebSocket.CONNECTING) unsent.push(data);
    else if (socket.readyState === WebSocket.OPEN) socket.send(data);
  };
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.event === 'error') onError(new ServerError(event.status, event.detail));
    else onEvent(event);
  };
  socket.onclose = ({ code }) => {
    if (code === 1000) return;
    onError(new Error(`The live view stopped early (code ${code}). The recording continues.`));
  };
  return { send, end: () => send('{"type": "end"}') };
};
