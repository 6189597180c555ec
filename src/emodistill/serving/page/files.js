// The list of the user's recordings: each is analysed after the one before it, and one is shown.

import { element } from './view.js';

// An entry's `state` is 'waiting', 'working', 'done', 'failed' or 'cancelled'.
export class FileList {
  // `analyse(entry, { signal, onProgress })` returns a result. `describe(result)` returns its nodes for the
  // list. `onShow` gets the entry to show; null: the list is empty. `onState` gets an entry whose state has
  // changed.
  constructor(root, { analyse, describe, onShow, onState }) {
    Object.assign(this, { root, analyse, describe, onShow, onState });
    this.entries = [];
    this.shown = null;
    this.paused = false;
    this.working = null;
  }

  // Add files (or Blobs with a name) and show the first of them.
  add(files) {
    const added = [...files].map((file) => this.createEntry(file));
    this.entries.push(...added);
    this.root.append(...added.map(({ row }) => row));
    this.root.hidden = false;
    if (added.length) this.show(added[0]);
    this.work();
  }

  // Analyse files again, by default all of them, and the shown one first.
  restart(entries = this.entries) {
    for (const entry of entries) {
      if (entry.state === 'cancelled' && entry !== this.shown) continue;
      entry.controller?.abort();
      Object.assign(entry, { result: null, error: null });
      this.setState(entry, 'waiting');
    }
    if (this.shown) this.onShow(this.shown);
    this.work();
  }

  // Stop the analysis of the present file until `resume`, which begins it again.
  pause() {
    this.paused = true;
    const entry = this.working;
    if (!entry) return;
    entry.controller.abort();
    this.setState(entry, 'waiting');
  }

  resume() {
    this.paused = false;
    this.work();
  }

  show(entry) {
    this.shown = entry;
    for (const other of this.entries) other.button.ariaPressed = String(other === entry);
    this.onShow(entry);
  }

  async work() {
    if (this.working || this.paused) return;
    const isWaiting = ({ state }) => state === 'waiting';
    const entry = this.shown && isWaiting(this.shown) ? this.shown : this.entries.find(isWaiting);
    if (!entry) return;
    this.working = entry;
    const controller = new AbortController();
    const { signal } = controller;
    entry.controller = controller;
    this.setState(entry, 'working');
    const onProgress = (progress) => signal.aborted || this.showProgress(entry, progress);
    try {
      const result = await this.analyse(entry, { signal, onProgress });
      if (!signal.aborted) this.finish(entry, 'done', { result });
    } catch (error) {
      if (!signal.aborted) this.finish(entry, 'failed', { error });
    }
    this.working = null;
    this.work();
  }

  finish(entry, state, outcome) {
    Object.assign(entry, outcome);
    this.setState(entry, state);
    if (entry === this.shown) this.onShow(entry);
  }

  cancel(entry) {
    entry.controller?.abort();
    this.setState(entry, 'cancelled');
    if (entry === this.shown) this.onShow(entry);
  }

  // Take a file off the list, and stop its analysis. If it was shown, its neighbour is shown.
  remove(entry) {
    entry.controller?.abort();
    entry.state = 'removed';
    const place = this.entries.indexOf(entry);
    this.entries.splice(place, 1);
    entry.row.remove();
    this.root.hidden = this.entries.length === 0;
    if (entry !== this.shown) return;
    const next = this.entries[place] ?? this.entries[place - 1] ?? null;
    if (next) {
      this.show(next);
      next.button.focus();
    } else {
      this.shown = null;
      this.onShow(null);
    }
  }

  createEntry(file) {
    const button = element('button', { type: 'button', className: 'file', ariaPressed: 'false' });
    const state = element('span', { className: 'state' });
    button.append(element('span', { className: 'name', textContent: file.name }), state);
    const bar = element('progress', { max: 1, ariaLabel: `Progress of ${file.name}`, hidden: true });
    const stop = element('button', { type: 'button', className: 'stop', textContent: 'Cancel' });
    stop.setAttribute('aria-label', `Cancel ${file.name}`);
    const remove = element('button', { type: 'button', className: 'remove', textContent: '×', title: 'Remove' });
    remove.setAttribute('aria-label', `Remove ${file.name}`);
    const row = element('li', {}, button, stop, remove, bar);
    const entry = { file, state: null, result: null, error: null, controller: null, row, button, bar, stop };
    button.onclick = () => this.show(entry);
    stop.onclick = () => this.cancel(entry);
    remove.onclick = () => this.remove(entry);
    entry.stateText = state;
    this.setState(entry, 'waiting');
    return entry;
  }

  setState(entry, state) {
    entry.state = state;
    entry.row.dataset.state = state;
    entry.bar.hidden = state !== 'working';
    entry.bar.removeAttribute('value');
    entry.stop.hidden = state !== 'working' && state !== 'waiting';
    const content = { done: () => this.describe(entry.result), failed: () => [entry.error.message] };
    entry.stateText.replaceChildren(...(content[state]?.() ?? [state]));
    this.onState(entry);
  }

  // `progress` is { text, share }; a share of null means that nobody knows how much is left.
  showProgress(entry, { text, share }) {
    entry.stateText.replaceChildren(text);
    if (share === null) entry.bar.removeAttribute('value');
    else entry.bar.value = share;
  }
}
