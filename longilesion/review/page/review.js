// What the page shows of a review, and what the server knows of it.

import { Drawing } from "./drawing.js";
import { showLesion, showList } from "./list.js";
import { get, post } from "./server.js";
import { CANDIDATE, CHOSEN, OTHER, turned, View, WINDOWS } from "./views.js";

export const byId = (id) => document.getElementById(id);
export const SIDES = ["baseline", "followup"];
const other = (side) => (side === "baseline" ? "followup" : "baseline");

export class Review {
  constructor() {
    this.known = null;
    this.chosen = null;
    this.views = { baseline: new View("baseline"), followup: new View("followup") };
    this.drawing = new Drawing(this.views.followup, (decision) => this.decide(decision));
    this.window = WINDOWS[0];
    this.isOutlined = true;
    this.isLinked = true;
    this.zoom = 1;
    // The decisions made until now, each sent once the one before is answered.
    this.queue = Promise.resolve();
    this.isBusy = false;
    // The side that the cursor was moved on last.
    this.active = "followup";
    // From a place in the baseline to that in the follow-up.
    this.offset = [0, 0, 0];
    this.outlines = new Map();
    this.baselines = new Map();
    this.onTexts = () => {};
    for (const side of SIDES) this.views[side].onMoved = (mm) => this.follow(side, mm);
  }

  // ---------------------------------------------------------------------------------------------- what is said

  say(text, isError = false) {
    byId("status").textContent = text;
    byId("status").className = isError ? "error" : "";
  }

  async attempt(doing) {
    try {
      return await doing();
    } catch (error) {
      this.say(error.message, true);
      return undefined;
    }
  }

  // ---------------------------------------------------------------------------------------------- lesions

  get lesions() { return this.known?.lesions ?? []; }

  get lesion() { return this.find(this.chosen); }

  find(id) { return this.lesions.find((lesion) => lesion.id === id); }

  // The scan of the chosen lesion; of one that has none there, the first.
  scanOf(side) { return this.lesion?.[side].scan ?? this.known[`${side}s`][0] ?? null; }

  // ---------------------------------------------------------------------------------------------- from the server

  async update(known) {
    this.known = known;
    await Promise.all(this.lesions.map(async ({ id, outline }) => {
      if (this.outlines.get(id)?.outline !== outline) this.outlines.set(id, await get(`api/outlines/${id}`));
    }));
    if (!this.lesion) this.chosen = this.lesions[0]?.id ?? null;
    this.texts();
    this.label();
  }

  // Sends a decision after all others; gives whether it was kept.
  decide(decision) { return (this.queue = this.queue.then(() => this.send(decision))); }

  async send(decision) {
    this.isBusy = true;
    const begun = performance.now();
    const isKept = await this.attempt(async () => {
      await this.update(await post("api/decisions", decision));
      const word = { undo: "undone", redo: "done again" }[decision.kind] ?? "saved";
      this.say(`${word} (${((performance.now() - begun) / 1000).toFixed(1)} s)`);
      return true;
    });
    this.isBusy = false;
    // A stroke that was refused is taken back.
    await this.attempt(async () => this.label());
    return isKept ?? false;
  }

  // ---------------------------------------------------------------------------------------------- what is shown

  texts() {
    showList(this.known, this.chosen, (id) => this.choose(id));
    showLesion(this.lesion);
    this.onTexts();
  }

  label() {
    const named = this.lesions
      .filter((each) => each.followup.scan === this.scanOf("followup") && each.id !== this.chosen)
      .map((each) => [each.is_candidate && each.verdict === "untouched" ? CANDIDATE : OTHER, this.outlines.get(each.id)]);
    if (this.lesion) named.push([CHOSEN, this.outlines.get(this.chosen)]);
    if (this.drawing.isOn) this.drawing.label(named.map(([value, outline]) => [value, outline?.voxels ?? []]));
    else this.views.followup.label(named.map(([value, outline]) => [value, outline?.shown ?? []]));
  }

  async labelBaseline() {
    const scan = this.scanOf("baseline");
    if (!scan) return;
    if (!this.baselines.has(scan)) this.baselines.set(scan, await get(`api/baseline/${scan}/outlines`));
    const outlines = this.baselines.get(scan);
    const others = Object.entries(outlines).filter(([id]) => Number(id) !== this.chosen).map(([, runs]) => [OTHER, runs]);
    this.views.baseline.label([...others, [CHOSEN, outlines[this.chosen] ?? []]]);
  }

  async showScans() {
    for (const side of SIDES) {
      const scan = this.scanOf(side);
      await this.views[side].show(scan && `api/${side}/${scan}/scan.nii.gz`, this.window.range);
    }
  }

  setWindow(window) {
    this.window = window;
    for (const side of SIDES) this.views[side].setWindow(window.range);
    this.label();
    this.labelBaseline();
  }

  magnify() {
    for (const side of SIDES) this.views[side].zoom(this.zoom);
  }

  async choose(id) {
    if (this.drawing.isOn) await this.endDrawing();
    this.chosen = id;
    await this.attempt(async () => {
      await this.showScans();
      this.texts();
      await this.labelBaseline();
      this.label();
      this.goToLesion();
      if (this.lesion) this.say(`Lesion ${id}: ${this.lesion.reasons.join(", ") || "no particular doubt"}`);
    });
  }

  goToLesion() {
    const [before, after] = SIDES.map((side) => this.lesion?.[side].place_xyz_mm && turned(this.lesion[side].place_xyz_mm));
    if (before && after) this.offset = after.map((mm, axis) => mm - before[axis]);
    if (before || after) {
      this.views.baseline.place(before ?? after.map((mm, axis) => mm - this.offset[axis]));
      this.views.followup.place(after ?? before.map((mm, axis) => mm + this.offset[axis]));
    }
    this.magnify();
    this.showPosition();
  }

  // The other cursor follows the one that was moved.
  follow(side, mm) {
    this.active = side;
    const sign = side === "baseline" ? 1 : -1;
    if (this.isLinked) this.views[other(side)].place(mm.map((part, axis) => part + sign * this.offset[axis]));
    this.showPosition();
  }

  showPosition() {
    const { mm, value } = this.views[this.active];
    const hu = value === null || Number.isNaN(value) ? "" : `, ${value} HU`;
    byId("position").textContent = mm
      ? `${this.active === "baseline" ? "baseline" : "follow-up"} at ${mm.map((part) => part.toFixed(0)).join(", ")} mm (right, anterior, superior)${hu}`
      : "";
  }

  // ---------------------------------------------------------------------------------------------- drawing

  async beginDrawing() {
    await this.attempt(async () => {
      await this.drawing.begin(this.lesion, this.window.range);
      this.texts();
      this.label();
      this.views.followup.zoom(1);
      this.say("Draw in the follow-up with the left mouse button; each stroke is saved.");
    });
  }

  async endDrawing() {
    this.drawing.end();
    await this.attempt(async () => {
      const { mm } = this.views.followup;
      await this.showScans();
      this.texts();
      this.label();
      if (mm) this.views.followup.place(mm);
      this.views.followup.zoom(this.zoom);
    });
  }
}
