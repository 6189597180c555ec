// The server: requests, and the stream. A page without a server has another file in this one's place (`assets/web/api.js`), with
// the same functions.

const MEDIA_TYPES = { json: 'application/json', csv: 'text/csv', srt: 'application/x-subrip', textgrid: 'text/x-textgrid' };
export const ABOUT = {
  promise: 'any audio or video; it stays on this server while it is judged, and no longer',
  links: [['OpenAPI', 'openapi.json'], ['Model card', 'v1/models']],
  token: true, // there may be one to give
};

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const headers = (token, accept = 'application/json') => ({ Accept: accept, ...(token && { Authorization: `Bearer ${token}` }) });

const checked = async (response) => {
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Refused(response.status, problem.detail ?? `The server answered ${response.status}.`);
};

const ask = async (path, options) => {
  try {
    return await checked(await fetch(path, options));
  } catch (error) {
    if (error instanceof TypeError) throw new Error('The server cannot be reached. Is it still running?');
    throw error;
  }
};

export const models = async (token) => (await ask('v1/models', { headers: headers(token) })).json();

const post = (path, file, { token, threshold, format = 'json', fields = {} }) => {
  const form = new FormData();
  form.append('files', file, file.name ?? 'recording.wav');
  if (threshold > 0) form.append('min_confidence', String(threshold));
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return ask(path, { method: 'POST', body: form, headers: headers(token, MEDIA_TYPES[format]) });
};

export const timeline = async (file, options) => (await (await post('v1/timeline', file, options)).json())[0];
export const timelineAs = async (file, format, options) => (await post('v1/timeline', file, { ...options, format })).blob();
export const predict = async (file, options) =>
  (await (await post('v1/predict', file, { ...options, fields: { teachers: 'true' } })).json())[0];

// A stream of 16-bit PCM: `send` chunks, then `end`; `onEvent` hears what the server says, `onFail` why it says nothing more.
export const stream = (rate, { token, threshold }, onEvent, onFail) => {
  const address = new URL('v1/stream', location.href);
  address.protocol = address.protocol.replace('http', 'ws');
  const socket = new WebSocket(address);
  socket.binaryType = 'arraybuffer';
  const waiting = [];
  socket.onopen = () => {
    const start = { encoding: 'pcm16', rate, ...(threshold > 0 && { min_confidence: threshold }), ...(token && { token }) };
    socket.send(JSON.stringify(start));
    waiting.splice(0).forEach((data) => socket.send(data));
  };
  const send = (data) => (socket.readyState === WebSocket.CONNECTING ? waiting.push(data) : socket.readyState === WebSocket.OPEN && socket.send(data));
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.event === 'error') onFail(new Refused(event.status, event.detail));
    else onEvent(event);
  };
  socket.onclose = ({ code }) => code !== 1000 && onFail(new Error(`The stream ended early (${code}); the recording goes on.`));
  return { send, end: () => send('{"type": "end"}') };
};
