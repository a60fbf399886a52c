// The list of lesions and what is known of the chosen one, as text.

const VERDICTS = {
  untouched: "to review", confirmed: "confirmed", moved: "moved", drawn: "drawn", gone: "gone", new: "new",
  not_a_lesion: "not a lesion", merged: "merged",
};

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

const ml = (volume) => (volume === null ? "-" : volume === 0 ? "0" : volume < 0.995 ? volume.toPrecision(2) : volume < 99.5 ? volume.toFixed(1) : volume.toFixed(0));
const share = (number) => (number === null ? null : number.toFixed(2));

function change({ baseline, followup, is_outside, notes }) {
  const [before, after] = [baseline.volume_ml, followup.volume_ml];
  if (is_outside) return "outside";
  if (before === null || after === null) return "-";
  // A lesion that may have been missed is not gone.
  if (!after) return before && notes.some((note) => note.startsWith("gone")) ? "-100 %" : "-";
  if (!before) return "new";
  const percent = Math.max(Number((100 * (after / before - 1)).toPrecision(2)), -99);
  return `${percent > 0 ? "+" : ""}${percent.toFixed(0)} %`;
}

function measures({ scan, volume_ml: volume, longest_mm: longest, short_mm: short }) {
  if (scan === null) return "";
  if (longest === null) return "not outlined";
  return longest ? `${longest.toFixed(1)} × ${short.toFixed(1)} mm, ${ml(volume)} ml` : "no outline";
}

const verdictText = (lesion) => (lesion.verdict === "merged" ? `merged with ${lesion.merged_into}` : VERDICTS[lesion.verdict]);

function row(lesion, isChosen, choose) {
  // Once it is decided, the reasons for doubt are not needed any more.
  const chips = lesion.verdict === "untouched" ? lesion.reasons.map((reason) => element("span", { class: "chip" }, reason)) : [];
  const made = element(
    "button", { type: "button", class: "lesion", "data-lesion": lesion.id, "aria-current": String(isChosen) },
    element("span", { class: "id" }, String(lesion.id)),
    element("span", { class: `verdict ${lesion.verdict}` }, ...(chips.length ? chips : [verdictText(lesion)])),
    element("span", { class: "change" }, change(lesion)),
  );
  made.addEventListener("click", () => choose(lesion.id));
  return element("li", {}, made);
}

export function showList(review, chosen, choose) {
  const focused = document.activeElement?.dataset?.lesion;
  for (const [id, isCandidate] of [["lesions", false], ["candidates", true]]) {
    const own = review.lesions.filter((lesion) => lesion.is_candidate === isCandidate);
    document.getElementById(id).replaceChildren(...own.map((lesion) => row(lesion, lesion.id === chosen, choose)));
    if (isCandidate) document.getElementById("candidates-part").hidden = !own.length;
  }
  if (focused) document.querySelector(`[data-lesion="${focused}"]`)?.focus();
  document.querySelector('.lesion[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
  const total = review.lesions.filter((lesion) => !lesion.is_candidate).length;
  const done = total - review.undecided;
  document.getElementById("progress-text").textContent = `${done} of ${total} lesions reviewed`;
  Object.assign(document.getElementById("progress"), { value: done, max: Math.max(total, 1) });
}

export function showLesion(lesion) {
  document.getElementById("lesion-title").textContent = lesion
    ? `${lesion.is_candidate ? "Candidate" : "Lesion"} ${lesion.id}: ${verdictText(lesion)}${lesion.reader ? ` by ${lesion.reader}` : ""}`
    : "No lesion";
  const facts = lesion
    ? {
      "before": `${ml(lesion.baseline.volume_ml)} ml`,
      "after": `${ml(lesion.followup.volume_ml)} ml${lesion.interval_ml ? ` (${lesion.interval_ml.map(ml).join(" to ")})` : ""}`,
      "change": change(lesion),
      "presence": share(lesion.presence),
      "confidence": share(lesion.confidence),
      "similarity": share(lesion.similarity),
      "moved": lesion.moved_mm === null ? null : `${lesion.moved_mm.toFixed(1)} mm`,
      "drawn": lesion.added || lesion.removed ? `+${lesion.added} -${lesion.removed} voxels` : null,
    }
    : {};
  document.getElementById("facts").replaceChildren(
    ...Object.entries(facts)
      .filter(([, text]) => text !== null)
      .map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text))),
  );
  document.getElementById("notes").textContent = lesion ? lesion.notes.join("; ") : "";
  for (const side of ["baseline", "followup"]) {
    document.getElementById(`text-${side}`).textContent = lesion ? measures(lesion[side]) : "";
  }
  const stage = document.getElementById("stage");
  stage.className = `stage ${lesion?.stage ?? ""}`;
  stage.textContent = {
    preview: "preview by one view", full: "full outline", failed: "cannot be computed",
  }[lesion?.stage] ?? "";
}
