// The page of a review: what can be done, by which button and key.

import { addButtons, addHelp, listen } from "./actions.js";
import { askMergedInto, showFinish, write } from "./dialogs.js";
import { byId, Review, SIDES } from "./review.js";
import { get } from "./server.js";
import { turned, WINDOWS } from "./views.js";

const review = new Review();
const { views, drawing } = review;

// ------------------------------------------------------------------------------------------------ decisions

const mayChange = () => review.known !== null && !review.known.is_read_only;
const mayDecide = () => mayChange() && review.lesion !== undefined;
const mayPlace = () => mayDecide() && !review.lesion.is_candidate;
const isShown = () => mayDecide() && review.lesion.followup.scan !== null;
const isDrawing = () => drawing.isOn;
const cursor = () => ({ scan: review.scanOf("followup"), point_xyz_mm: turned(views.followup.mm) });

function nextUndecided() {
  const from = review.lesions.indexOf(review.lesion);
  const next = [...review.lesions.slice(from + 1), ...review.lesions.slice(0, from + 1)].find((lesion) => lesion.verdict === "untouched");
  if (next) review.choose(next.id);
  else review.say("Every lesion is reviewed: finish (F) writes the result.");
}

async function decideAndGoOn(kind) {
  const lesion = review.chosen;
  // Another lesion may have been chosen before the answer.
  if (await review.decide({ kind, lesion }) && review.chosen === lesion) nextUndecided();
}

async function addNew() {
  // Its id is the one after the highest.
  if (await review.decide({ kind: "new", ...cursor() })) await review.choose(Math.max(...review.lesions.map(({ id }) => id)));
}

async function merge() {
  const lesion = review.chosen;
  const into = await askMergedInto(review);
  if (into !== null) await review.decide({ kind: "merge", lesion, into });
}

// And shows the lesion that it is about, which is undone, or stands again, once it is answered.
async function goBack(kind) {
  if (!(await review.decide({ kind }))) return;
  const id = kind === "undo" ? review.known.next_lesion : review.known.last_lesion;
  if (review.find(id) && id !== review.chosen) await review.choose(id);
}

function step(by) {
  const count = review.lesions.length;
  if (count) review.choose(review.lesions[(review.lesions.indexOf(review.lesion) + by + count) % count].id);
}

const deciding = [
  { name: "confirm", label: "Confirm", key: "c", isPrimary: true, help: "confirm what is proposed, and go to the next", isPossible: mayDecide, run: () => decideAndGoOn("confirm") },
  { name: "move", label: "Move here", key: "m", help: "move the lesion's click to the cursor", isPossible: mayPlace, run: () => review.decide({ kind: "move", lesion: review.chosen, ...cursor() }) },
  { name: "draw", label: "Draw", key: "d", help: "draw voxels of the outline", isPossible: () => isShown() && review.lesion.stage === "full" && !isDrawing(), run: () => review.beginDrawing() },
  { name: "gone", label: "Gone", key: "g", help: "the lesion is gone", isPossible: mayPlace, run: () => decideAndGoOn("gone") },
  { name: "not_a_lesion", label: "Not a lesion", key: "x", help: "this is no lesion, nor was it one", isPossible: mayDecide, run: () => decideAndGoOn("not_a_lesion") },
  { name: "merge", label: "Merged…", key: "u", help: "the lesion has merged with another one", isPossible: isShown, run: merge },
  { name: "new", label: "New lesion", key: "n", help: "add a new lesion at the cursor", isPossible: mayChange, run: addNew },
];

const pen = (name, label, key, help, change) => ({
  name, label, key, help, isPossible: isDrawing,
  run: () => {
    change();
    review.texts();
  },
});

const drawingActions = [
  pen("brush", "Brush", "b", "brush, while drawing", () => drawing.use(false)),
  pen("eraser", "Eraser", "e", "eraser, while drawing", () => drawing.use(true)),
  pen("smaller", "Smaller", "[", "smaller brush", () => drawing.resize(-1)),
  pen("larger", "Larger", "]", "larger brush", () => drawing.resize(1)),
  { name: "done", label: "Done", key: "Escape", isPrimary: true, help: "end drawing", isPossible: isDrawing, run: () => review.endDrawing() },
];

const history = [
  { name: "undo", key: "Ctrl+z", label: "undo", isPossible: () => !byId("undo").disabled, run: () => goBack("undo") },
  { name: "redo", key: "Ctrl+y", keys: ["Ctrl+Shift+z"], label: "redo", isPossible: () => !byId("redo").disabled, run: () => goBack("redo") },
];

// ------------------------------------------------------------------------------------------------ view

function press(group, isPressed) {
  for (const button of byId(group).children) button.setAttribute("aria-pressed", String(isPressed(button.dataset.action)));
}

const windows = WINDOWS.map((window) => ({
  name: window.name, label: window.name, key: window.key, isKeyHidden: true, help: `window: ${window.name}`, title: `${window.name} window (${window.key})`,
  run: () => {
    review.setWindow(window);
    press("windows", (name) => name === window.name);
  },
}));

const planes = [["all", "3 planes", "p"], ["axial", "axial", "a"], ["coronal", "coronal", "o"], ["sagittal", "sagittal", "s"]].map(([plane, label, key]) => ({
  name: plane, label, key, isKeyHidden: true, help: plane === "all" ? "three planes" : `${label} plane alone`, title: `${label} (${key.toUpperCase()})`,
  run: () => {
    for (const side of SIDES) views[side].setPlane(plane);
    press("planes", (name) => name === plane);
  },
}));

const toggle = (name, label, key, help, change) => ({
  name, label, key, isKeyHidden: true, help, title: `${help} (${key.toUpperCase()})`,
  run: () => {
    change();
    toggled();
  },
});

const toggles = [
  toggle("outlines", "outlines", "v", "show outlines or hide them", () => {
    review.isOutlined = !review.isOutlined;
    for (const side of SIDES) views[side].setOutlined(review.isOutlined);
  }),
  toggle("linked", "linked", "l", "link both cursors", () => { review.isLinked = !review.isLinked; }),
  toggle("zoom", "magnify", "z", "magnify around the cursor", () => {
    review.zoom = review.zoom === 1 ? 3 : 1;
    review.magnify();
  }),
];

function toggled() {
  const states = { outlines: review.isOutlined, linked: review.isLinked, zoom: review.zoom > 1 };
  press("toggles", (name) => states[name]);
}

const moving = [
  { name: "next-undecided", key: " ", label: "next lesion to review", run: nextUndecided },
  { name: "next", key: "j", label: "next lesion of the list", run: () => step(1) },
  { name: "previous", key: "k", label: "previous lesion of the list", run: () => step(-1) },
  { name: "return", key: "r", label: "return to the lesion", run: () => review.goToLesion() },
];

// Radiological convention: the patient's right is on the left.
const cursorMoves = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
const cursorKeys = Object.entries(cursorMoves).map(([key, voxels]) => ({
  name: key, key, run: () => views[document.activeElement === byId("canvas-baseline") ? "baseline" : "followup"].step(...voxels),
}));
const cursorHelp = [
  { key: "ArrowLeft", keys: ["ArrowRight"], label: "move the cursor to either side" },
  { key: "ArrowUp", keys: ["ArrowDown"], label: "move the cursor to front and back" },
  { key: "PageUp", keys: ["PageDown"], label: "next and previous slice" },
];

const ends = [
  { name: "help", key: "?", label: "these keys", run: () => byId("help").showModal() },
  { name: "finish", key: "f", label: "finish: write the result", run: () => showFinish(review) },
];

// ------------------------------------------------------------------------------------------------ begin

review.onTexts = () => {
  const { is_read_only: isReadOnly, last, next } = review.known;
  Object.assign(byId("undo"), { disabled: isReadOnly || last === null, title: last ? `Undo: ${last} (Ctrl Z)` : "" });
  Object.assign(byId("redo"), { disabled: isReadOnly || next === null, title: next ? `Redo: ${next} (Ctrl Y)` : "" });
  for (const action of [...deciding, ...drawingActions]) {
    document.querySelector(`[data-action="${action.name}"]`).disabled = !action.isPossible();
  }
  byId("actions").hidden = isDrawing();
  byId("drawing-actions").hidden = !isDrawing();
  byId("pen").textContent = drawing.text;
};

function addControls() {
  const groups = { windows, planes, toggles, actions: deciding, "drawing-actions": drawingActions };
  for (const [id, actions] of Object.entries(groups)) addButtons(byId(id), actions);
  byId("drawing-actions").append(Object.assign(document.createElement("output"), { id: "pen" }));
  const all = [...moving, ...deciding.map((action) => ({ ...action, isDecision: true })), ...drawingActions, ...history, ...windows, ...planes, ...toggles, ...ends];
  addHelp(byId("help-keys"), [...cursorHelp, ...all]);
  listen([...cursorKeys, ...all]);
  const clicked = { undo: history[0].run, redo: history[1].run, "help-button": ends[0].run, finish: ends[1].run, write: () => write(review) };
  for (const [id, run] of Object.entries(clicked)) byId(id).addEventListener("click", run);
  press("windows", (name) => name === WINDOWS[0].name);
  press("planes", (name) => name === "all");
  toggled();
}

// A preview is replaced once the full outline is there.
async function poll() {
  while (true) {
    await new Promise((resolve) => { setTimeout(resolve, review.known.pending ? 400 : 3000); });
    if (review.isBusy) continue;
    await review.attempt(async () => {
      const known = await get("api/review");
      // A decision may have been answered meanwhile, by a later revision.
      if (!review.isBusy && known.revision > review.known.revision) await review.update(known);
      if (byId("status").textContent.startsWith("The program does not")) review.say("The program answers again.");
    });
  }
}

async function begin() {
  addControls();
  try {
    for (const side of SIDES) await views[side].start();
  } catch (error) {
    review.say(`This browser cannot show the scans (${error.message}); expected one with WebGL 2.`, true);
    return;
  }
  const known = await review.attempt(() => get("api/review"));
  if (!known) return;
  byId("statement").textContent = known.is_read_only ? `${known.statement} Read-only.` : known.statement;
  await review.attempt(() => review.update(known));
  await review.choose((known.lesions.find((lesion) => lesion.verdict === "untouched") ?? known.lesions[0])?.id ?? null);
  document.body.dataset.ready = "yes";
  poll();
}

begin();
