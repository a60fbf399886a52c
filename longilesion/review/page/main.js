// The page of a review: what is chosen and shown, and what the server knows of it.

import { addButtons, addHelp, listen } from "./actions.js";
import { Drawing } from "./drawing.js";
import { showLesion, showList } from "./list.js";
import { get, post } from "./server.js";
import { CANDIDATE, CHOSEN, OTHER, turned, View, WINDOWS } from "./views.js";

const byId = (id) => document.getElementById(id);
const status = byId("status");
const sides = ["baseline", "followup"];
const views = { baseline: new View("baseline"), followup: new View("followup") };
const shown = { window: WINDOWS[0], plane: "all", isOutlined: true, isLinked: true, zoom: 1 };

let review = null;
let chosen = null;
let active = "followup";
// From a place in the baseline to that in the follow-up.
let offset = [0, 0, 0];
let isBusy = false;
const outlines = new Map();
const baselines = new Map();

const lesionOf = (id) => review.lesions.find((lesion) => lesion.id === id);
const say = (text, isError = false) => {
  status.textContent = text;
  status.className = isError ? "error" : "";
};

async function attempt(doing) {
  try {
    return await doing();
  } catch (error) {
    say(error.message, true);
    return undefined;
  }
}

// ------------------------------------------------------------------------------------------------ what is shown

async function fetchOutlines() {
  await Promise.all(review.lesions.map(async (lesion) => {
    if (outlines.get(lesion.id)?.outline !== lesion.outline) outlines.set(lesion.id, await get(`api/outlines/${lesion.id}`));
  }));
}

function label() {
  const lesion = lesionOf(chosen);
  const scan = scanOf("followup");
  const own = review.lesions.filter((each) => each.followup.scan === scan && each.id !== chosen);
  const named = own.map((each) => [each.is_candidate && each.verdict === "untouched" ? CANDIDATE : OTHER, outlines.get(each.id)]);
  if (lesion) named.push([CHOSEN, outlines.get(chosen)]);
  if (drawing.isOn) drawing.label(named.map(([value, outline]) => [value, outline?.voxels ?? []]));
  else views.followup.label(named.map(([value, outline]) => [value, outline?.shown ?? []]));
}

async function labelBaseline() {
  const scan = scanOf("baseline");
  if (!scan) return;
  if (!baselines.has(scan)) baselines.set(scan, await get(`api/baseline/${scan}/outlines`));
  const all = Object.entries(baselines.get(scan)).filter(([id]) => Number(id) !== chosen).map(([, runs]) => [OTHER, runs]);
  views.baseline.label([...all, [CHOSEN, baselines.get(scan)[chosen] ?? []]]);
}

function texts() {
  showList(review, chosen, choose);
  const lesion = lesionOf(chosen);
  showLesion(lesion);
  byId("undo").disabled = review.is_read_only || review.last === null;
  byId("redo").disabled = review.is_read_only || review.next === null;
  byId("undo").title = review.last ? `Undo: ${review.last} (Ctrl Z)` : "";
  byId("redo").title = review.next ? `Redo: ${review.next} (Ctrl Y)` : "";
  for (const action of [...deciding, ...drawingActions]) {
    document.querySelector(`[data-action="${action.name}"]`).disabled = !(action.isPossible?.() ?? true);
  }
  byId("actions").hidden = drawing.isOn;
  byId("drawing-actions").hidden = !drawing.isOn;
  byId("pen").textContent = drawing.text;
}

async function update(next) {
  review = next;
  await fetchOutlines();
  if (!lesionOf(chosen)) chosen = review.lesions[0]?.id ?? null;
  texts();
  label();
}

// The scan of the chosen lesion; of one that has none there, the first.
const scanOf = (side) => lesionOf(chosen)?.[side].scan ?? review[`${side}s`][0] ?? null;

async function showScans() {
  for (const side of sides) {
    const scan = scanOf(side);
    await views[side].show(scan && `api/${side}/${scan}/scan.nii.gz`, shown.window.range);
  }
}

function goToLesion() {
  const lesion = lesionOf(chosen);
  const [before, after] = sides.map((side) => lesion?.[side].place_xyz_mm && turned(lesion[side].place_xyz_mm));
  if (before && after) offset = after.map((mm, axis) => mm - before[axis]);
  if (before || after) {
    views.baseline.place(before ?? after.map((mm, axis) => mm - offset[axis]));
    views.followup.place(after ?? before.map((mm, axis) => mm + offset[axis]));
  }
  for (const side of sides) views[side].zoom(shown.zoom);
  position();
}

async function choose(id) {
  if (drawing.isOn) await endDrawing();
  chosen = id;
  await attempt(async () => {
    await showScans();
    texts();
    await labelBaseline();
    label();
    goToLesion();
    const lesion = lesionOf(id);
    if (lesion) say(`Lesion ${id}: ${lesion.reasons.length ? lesion.reasons.join(", ") : "no particular doubt"}`);
  });
}

function position() {
  const mm = views[active].mm;
  const value = views[active].value;
  byId("position").textContent = mm
    ? `${active === "baseline" ? "baseline" : "follow-up"} at ${mm.map((part) => part.toFixed(0)).join(", ")} mm (right, anterior, superior)${value === null || Number.isNaN(value) ? "" : `, ${value} HU`}`
    : "";
}

for (const side of sides) {
  views[side].onMoved = (mm) => {
    active = side;
    if (shown.isLinked) {
      const sign = side === "baseline" ? 1 : -1;
      views[side === "baseline" ? "followup" : "baseline"].place(mm.map((part, axis) => part + sign * offset[axis]));
    }
    position();
  };
}

// ------------------------------------------------------------------------------------------------ decisions

async function decide(action) {
  if (isBusy) return;
  isBusy = true;
  document.body.classList.add("busy");
  const begun = performance.now();
  await attempt(async () => {
    await update(await post("api/decisions", action));
    say(`${{ undo: "undone", redo: "done again" }[action.kind] ?? "saved"} (${((performance.now() - begun) / 1000).toFixed(1)} s)`);
  });
  document.body.classList.remove("busy");
  isBusy = false;
  label();
}

// And shows the lesion that it is about.
async function goBack(kind, id) {
  await decide({ kind });
  if (lesionOf(id) && id !== chosen) await choose(id);
}

const drawing = new Drawing(views.followup, decide);

const ofChosen = () => lesionOf(chosen);
const mayDecide = () => review !== null && !review.is_read_only && ofChosen() !== undefined;

async function decideAndGoOn(kind) {
  await decide({ kind, lesion: chosen });
  if (!status.classList.contains("error")) nextUndecided();
}

function cursor() {
  return { scan: scanOf("followup"), point_xyz_mm: turned(views.followup.mm) };
}

async function addNew() {
  const known = new Set(review.lesions.map((lesion) => lesion.id));
  await decide({ kind: "new", ...cursor() });
  const added = review.lesions.find((lesion) => !known.has(lesion.id));
  if (added) await choose(added.id);
}

async function merge() {
  const others = review.lesions.filter((lesion) => lesion.id !== chosen && !lesion.is_candidate && lesion.followup.scan === ofChosen().followup.scan);
  byId("merge-into").replaceChildren(...others.map((lesion) => new Option(`lesion ${lesion.id}`, lesion.id)));
  const dialog = byId("merge");
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => { dialog.addEventListener("close", resolve, { once: true }); });
  if (dialog.returnValue === "merge" && others.length) await decide({ kind: "merge", lesion: chosen, into: Number(byId("merge-into").value) });
}

async function beginDrawing() {
  await attempt(async () => {
    await drawing.begin(ofChosen(), shown.window.range);
    texts();
    label();
    views.followup.zoom(1);
    say("Draw in the follow-up with the left mouse button; each stroke is saved.");
  });
}

async function endDrawing() {
  drawing.end();
  await attempt(async () => {
    const at = views.followup.mm;
    await showScans();
    texts();
    label();
    if (at) views.followup.place(at);
    views.followup.zoom(shown.zoom);
  });
}

function nextUndecided() {
  const ids = review.lesions.map((lesion) => lesion.id);
  const from = ids.indexOf(chosen);
  const order = [...review.lesions.slice(from + 1), ...review.lesions.slice(0, from + 1)];
  const next = order.find((lesion) => lesion.verdict === "untouched");
  if (next) choose(next.id);
  else say("Every lesion is reviewed: finish (F) writes the result.");
}

function step(by) {
  const ids = review.lesions.map((lesion) => lesion.id);
  if (ids.length) choose(ids[(ids.indexOf(chosen) + by + ids.length) % ids.length]);
}

const deciding = [
  { name: "confirm", label: "Confirm", key: "c", isPrimary: true, help: "confirm what is proposed, and go to the next", isPossible: mayDecide, run: () => decideAndGoOn("confirm") },
  { name: "move", label: "Move here", key: "m", help: "move the lesion's click to the cursor", isPossible: () => mayDecide() && !ofChosen().is_candidate, run: () => decide({ kind: "move", lesion: chosen, ...cursor() }) },
  { name: "draw", label: "Draw", key: "d", help: "draw voxels of the outline", isPossible: () => mayDecide() && ofChosen().stage === "full" && ofChosen().followup.scan !== null && !drawing.isOn, run: beginDrawing },
  { name: "gone", label: "Gone", key: "g", help: "the lesion is gone", isPossible: () => mayDecide() && !ofChosen().is_candidate, run: () => decideAndGoOn("gone") },
  { name: "not_a_lesion", label: "Not a lesion", key: "x", isPossible: mayDecide, run: () => decideAndGoOn("not_a_lesion"), help: "this is no lesion, nor was it one" },
  { name: "merge", label: "Merged…", key: "u", help: "the lesion has merged with another one", isPossible: () => mayDecide() && ofChosen().followup.scan !== null, run: merge },
  { name: "new", label: "New lesion", key: "n", help: "add a new lesion at the cursor", isPossible: () => review !== null && !review.is_read_only, run: addNew },
];

const drawingActions = [
  { name: "brush", label: "Brush", key: "b", help: "brush, while drawing", isPossible: () => drawing.isOn, run: () => { drawing.use(false); texts(); } },
  { name: "eraser", label: "Eraser", key: "e", help: "eraser, while drawing", isPossible: () => drawing.isOn, run: () => { drawing.use(true); texts(); } },
  { name: "smaller", label: "Smaller", key: "[", help: "smaller brush", isPossible: () => drawing.isOn, run: () => { drawing.resize(-1); texts(); } },
  { name: "larger", label: "Larger", key: "]", help: "larger brush", isPossible: () => drawing.isOn, run: () => { drawing.resize(1); texts(); } },
  { name: "done", label: "Done", key: "Escape", isPrimary: true, help: "end drawing", isPossible: () => drawing.isOn, run: endDrawing },
];

// ------------------------------------------------------------------------------------------------ view

function press(group, name) {
  for (const button of byId(group).children) button.setAttribute("aria-pressed", String(button.dataset.action === name));
}

const windows = WINDOWS.map((each) => ({
  name: each.name, label: each.name, key: each.key, isKeyHidden: true, help: `window: ${each.name}`, title: `${each.name} window (${each.key})`,
  run: () => {
    shown.window = each;
    for (const side of sides) views[side].setWindow(each.range);
    label();
    labelBaseline();
    press("windows", each.name);
  },
}));

const planes = [["all", "3 planes", "p"], ["axial", "axial", "a"], ["coronal", "coronal", "o"], ["sagittal", "sagittal", "s"]].map(([name, text, key]) => ({
  name, label: text, key, isKeyHidden: true, help: text === "3 planes" ? "three planes" : `${text} plane alone`, title: `${text} (${key.toUpperCase()})`,
  run: () => {
    shown.plane = name;
    for (const side of sides) views[side].setPlane(name);
    press("planes", name);
  },
}));

const toggle = (name, text, key, help, change) => ({
  name, label: text, key, isKeyHidden: true, help, title: `${help} (${key.toUpperCase()})`,
  run: () => {
    change();
    toggled();
  },
});

const toggles = [
  toggle("outlines", "outlines", "v", "show outlines or hide them", () => {
    shown.isOutlined = !shown.isOutlined;
    for (const side of sides) views[side].setOutlined(shown.isOutlined);
  }),
  toggle("linked", "linked", "l", "link both cursors", () => { shown.isLinked = !shown.isLinked; }),
  toggle("zoom", "magnify", "z", "magnify around the cursor", () => {
    shown.zoom = shown.zoom === 1 ? 3 : 1;
    for (const side of sides) views[side].zoom(shown.zoom);
  }),
];

function toggled() {
  const states = { outlines: shown.isOutlined, linked: shown.isLinked, zoom: shown.zoom > 1 };
  for (const button of byId("toggles").children) button.setAttribute("aria-pressed", String(states[button.dataset.action]));
}

const step3 = (x, y, z) => () => {
  const side = document.activeElement === byId("canvas-baseline") ? "baseline" : "followup";
  views[side].step(x, y, z);
};

const moving = [
  { name: "next-undecided", key: " ", label: "next lesion to review", run: nextUndecided },
  { name: "next", key: "j", label: "next lesion of the list", run: () => step(1) },
  { name: "previous", key: "k", label: "previous lesion of the list", run: () => step(-1) },
  { name: "return", key: "r", label: "return to the lesion", run: goToLesion },
  { name: "left", key: "ArrowLeft", keys: ["ArrowRight"], label: "move the cursor to either side", run: () => {} },
  { name: "front", key: "ArrowUp", keys: ["ArrowDown"], label: "move the cursor to front and back", run: () => {} },
  { name: "up", key: "PageUp", keys: ["PageDown"], label: "next and previous slice", run: () => {} },
];

// Radiological convention: the patient's right is on the left.
const cursorKeys = [
  ["ArrowLeft", step3(1, 0, 0)], ["ArrowRight", step3(-1, 0, 0)], ["ArrowUp", step3(0, 1, 0)], ["ArrowDown", step3(0, -1, 0)],
  ["PageUp", step3(0, 0, 1)], ["PageDown", step3(0, 0, -1)],
].map(([key, run]) => ({ name: key, key, run }));

const history = [
  { name: "undo", key: "Ctrl+z", label: "undo", isPossible: () => !byId("undo").disabled, run: () => goBack("undo", review.last_lesion) },
  { name: "redo", key: "Ctrl+y", keys: ["Ctrl+Shift+z"], label: "redo", isPossible: () => !byId("redo").disabled, run: () => goBack("redo", review.next_lesion) },
];

async function finish() {
  const dialog = byId("finishing");
  byId("write").disabled = review.is_read_only;
  byId("finishing-text").textContent = review.undecided
    ? `${review.undecided} lesion${review.undecided > 1 ? "s are" : " is"} not reviewed yet; the record will say so.`
    : "Every lesion is reviewed.";
  await results();
  dialog.showModal();
}

async function results() {
  await attempt(async () => {
    const names = await get("api/results");
    byId("results").replaceChildren(...names.map((name) => {
      const link = Object.assign(document.createElement("a"), { href: `api/results/${name}`, download: name, textContent: name });
      const item = document.createElement("li");
      item.append(link);
      return item;
    }));
  });
}

async function write() {
  byId("write").disabled = true;
  byId("finishing-text").textContent = "Outlining in full, and writing …";
  try {
    await update(await post("api/finish"));
    byId("finishing-text").textContent = "Written to the output folder. Decisions made from now on are kept as well, and can be written again.";
    say("The result is written.");
  } catch (error) {
    byId("finishing-text").textContent = error.message;
  }
  byId("write").disabled = review.is_read_only;
}

const other = [
  { name: "help", key: "?", label: "these keys", run: () => byId("help").showModal() },
  { name: "finish", key: "f", label: "finish: write the result", run: finish },
];

// ------------------------------------------------------------------------------------------------ begin

async function poll() {
  // A preview is replaced once the full outline is there.
  while (true) {
    await new Promise((resolve) => { setTimeout(resolve, review.pending ? 400 : 3000); });
    if (isBusy) continue;
    await attempt(async () => {
      const next = await get("api/review");
      if (!isBusy && next.revision !== review.revision) await update(next);
      if (status.classList.contains("error") && status.textContent.startsWith("The program")) say("The program answers again.");
    });
  }
}

async function begin() {
  addButtons(byId("windows"), windows);
  addButtons(byId("planes"), planes);
  addButtons(byId("toggles"), toggles);
  addButtons(byId("actions"), deciding);
  addButtons(byId("drawing-actions"), drawingActions);
  byId("drawing-actions").append(Object.assign(document.createElement("output"), { id: "pen" }));
  addHelp(byId("help-keys"), [...moving, ...deciding, ...drawingActions, ...history, ...windows, ...planes, ...toggles, ...other]);
  listen([...cursorKeys, ...moving, ...deciding, ...drawingActions, ...history, ...windows, ...planes, ...toggles, ...other]);
  byId("undo").addEventListener("click", history[0].run);
  byId("redo").addEventListener("click", history[1].run);
  byId("help-button").addEventListener("click", other[0].run);
  byId("finish").addEventListener("click", finish);
  byId("write").addEventListener("click", write);
  press("windows", shown.window.name);
  press("planes", shown.plane);
  toggled();
  try {
    for (const side of sides) await views[side].start();
  } catch (error) {
    say(`This browser cannot show the scans (${error.message}); expected one with WebGL 2.`, true);
    return;
  }
  review = await attempt(() => get("api/review"));
  if (!review) return;
  byId("statement").textContent = review.is_read_only ? `${review.statement} Read-only.` : review.statement;
  await attempt(fetchOutlines);
  await choose(review.lesions.find((lesion) => lesion.verdict === "untouched")?.id ?? review.lesions[0]?.id ?? null);
  document.body.dataset.ready = "yes";
  poll();
}

begin();
