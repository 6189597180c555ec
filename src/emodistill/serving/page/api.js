// The page's calls to the server. The static page has another file in place of this one, with the same
// functions: `assets/web/api.js`.

export const ABOUT = {
  privacy: 'Any audio or video file. The server keeps no copy of it.',
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

const request = async (path, options) => {
  try {
    return await check(await fetch(path, options));
  } catch (error) {
    if (error instanceof TypeError) throw new Error('The server cannot be reached. Is it still running?');
    throw error;
  }
};

export const models = async (token) => (await request('v1/models', { headers: headers(token) })).json();

const post = (path, file, { token, threshold, mediaType = 'application/json', fields = {} }) => {
  const form = new FormData();
  form.append('files', file, file.name ?? 'recording.wav');
  if (threshold > 0) form.append('min_confidence', String(threshold));
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return request(path, { method: 'POST', body: form, headers: headers(token, mediaType) });
};

// `compared`: compare each part with the usual of the whole recording.
const postTimeline = (file, { compared, ...options }) =>
  post('v1/timeline', file, { ...options, fields: compared ? { adapt: 'recording' } : {} });

export const timeline = async (file, options) => (await (await postTimeline(file, options)).json())[0];
export const timelineAs = async (file, format, options) =>
  (await postTimeline(file, { ...options, mediaType: format.mediaType })).blob();
export const predict = async (file, options) =>
  (await (await post('v1/predict', file, { ...options, fields: { teachers: 'true' } })).json())[0];

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
