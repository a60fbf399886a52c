// Brush and eraser: a stroke at a time, sent as runs of the voxels that it has changed in the lesion.

import { getPart } from "./server.js";
import { CHOSEN } from "./views.js";

const SIZES = [1, 3, 5, 7, 9];

export class Drawing {
  constructor(view, decide) {
    this.view = view;
    this.decide = decide;
    this.part = null;
    this.lesion = null;
    this.before = null;
    this.size = 1;
    this.isErasing = false;
    view.niivue.onDrawingChanged = (action) => { if (action === "draw") this.send(); };
  }

  get isOn() { return this.part !== null; }

  // Shows the lesion's neighbourhood in the scan's own voxels.
  async begin(lesion, range) {
    const address = `api/neighbourhoods/${lesion.id}/scan.nii.gz`;
    const part = await getPart(address);
    const url = URL.createObjectURL(new Blob([part.buffer]));
    const at = this.view.mm;
    await this.view.show(`${address}?${lesion.outline}`, range, url);
    URL.revokeObjectURL(url);
    if (at) this.view.place(at);
    this.part = part;
    this.lesion = lesion.id;
    this.view.niivue.setDrawingEnabled(true);
    this.use(false);
  }

  end() {
    this.view.niivue.setDrawingEnabled(false);
    this.part = null;
    this.before = null;
  }

  use(isErasing) {
    this.isErasing = isErasing;
    this.view.niivue.setPenValue(isErasing ? 0 : CHOSEN, false);
    this.resize(0);
  }

  resize(by) {
    this.size = Math.min(Math.max(this.size + by, 0), SIZES.length - 1);
    this.view.niivue.opts.penSize = SIZES[this.size];
  }

  get text() { return `${this.isErasing ? "eraser" : "brush"} of ${SIZES[this.size]} voxel${this.size ? "s" : ""}`; }

  // Runs of voxels of the whole scan, as voxels of the part.
  local(runs) {
    const { start, size, of } = this.part;
    const found = [];
    for (const [first, count] of runs) {
      for (let index = first; index < first + count; index += 1) {
        const x = (index % of[0]) - start[0];
        const y = (Math.floor(index / of[0]) % of[1]) - start[1];
        const z = Math.floor(index / (of[0] * of[1])) - start[2];
        if (x >= 0 && y >= 0 && z >= 0 && x < size[0] && y < size[1] && z < size[2]) found.push([x + size[0] * (y + size[1] * z), 1]);
      }
    }
    return found;
  }

  // Shows outlines, which strokes then change.
  label(outlines) {
    this.view.label(outlines.map(([value, runs]) => [value, this.local(runs)]));
    this.before = this.view.niivue.drawBitmap.slice();
  }

  send() {
    if (!this.part || !this.before) return;
    const bitmap = this.view.niivue.drawBitmap;
    const [added, removed] = [[], []];
    for (let index = 0; index < bitmap.length; index += 1) {
      if (bitmap[index] === this.before[index]) continue;
      if (bitmap[index] && this.before[index] === 0) added.push(index);
      else if (!bitmap[index] && this.before[index] === CHOSEN) removed.push(index);
      // Voxels of other lesions stay theirs.
      else bitmap[index] = this.before[index];
    }
    if (!added.length && !removed.length) {
      this.view.niivue.refreshDrawing(true);
      return;
    }
    // The next stroke may end before this one is answered.
    this.before = bitmap.slice();
    this.decide({ kind: "draw", lesion: this.lesion, added: this.runs(added), removed: this.runs(removed) });
  }

  // Voxels of the part, in ascending order, as runs of the whole scan.
  runs(indices) {
    const { start, size, of } = this.part;
    const runs = [];
    for (const index of indices) {
      const x = (index % size[0]) + start[0];
      const y = (Math.floor(index / size[0]) % size[1]) + start[1];
      const z = Math.floor(index / (size[0] * size[1])) + start[2];
      const global = x + of[0] * (y + of[1] * z);
      const last = runs[runs.length - 1];
      if (last && last[0] + last[1] === global) last[1] += 1;
      else runs.push([global, 1]);
    }
    return runs;
  }
}
